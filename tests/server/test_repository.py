"""The bundles of a repository, and what becomes of those that cannot be served."""

import shutil
from pathlib import Path

import pytest
from headwise_server.repository import RepositoryError, find


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository to change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


def test_empty_repository_says_what_to_do(tmp_path: Path) -> None:
    """No folder, and a folder without a bundle."""
    with pytest.raises(RepositoryError, match=r"expected a model repository at .*, found no such folder"):
        find(tmp_path / "none")
    with pytest.raises(RepositoryError, match=r"holds no bundle: .*Make one with `exporter build --dataset digits"):
        find(tmp_path)


def test_unfinished_folders_are_not_seen(copy: Path) -> None:
    """What an exporter is still writing begins with a dot."""
    shutil.copytree(copy / "digits" / "1", copy / "digits" / ".2.123.partial")
    assert [folder.name for folder in find(copy)] == ["1"]
