"""A cache of its own for every test, so that none sees another's and the user's stays as it is."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, not made yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HEADWISE_CACHE", str(folder))
    return folder
