"""What lies in a repository, without reading a bundle."""

import os
from pathlib import Path

import pytest
from headwise_server.folders import GONE, pinned_version, scan, signature


def make_files(folder: Path, *paths: str) -> None:
    """Files of a byte each."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


def test_versions_are_positive_integers_and_the_rest_is_skipped_by_name(tmp_path: Path) -> None:
    """Backups, hidden and unfinished folders and stray files stop nothing, and each is named once."""
    make_files(tmp_path, "digits/1/manifest.json", "digits/10/manifest.json", "digits/pinned_version", "flowers/2/x")
    skipped = [
        "digits/1.bak",
        "digits/.3.partial",
        "digits/01",
        "digits/0",
        "digits/-1",
        "digits/٣",
        ".trash",
        "lost+found",
    ]
    for name in skipped:
        (tmp_path / name).mkdir()
    make_files(tmp_path, "README", "digits/7")
    result = scan(tmp_path)
    assert {name: list(versions) for name, versions in result.versions.items()} == {"digits": [1, 10], "flowers": [2]}
    assert result.versions["digits"][10] == tmp_path / "digits" / "10"
    assert len(result.skipped) == len(skipped) + 2
    for name in [*skipped, "README", "digits/7"]:
        assert sum(line.startswith(f"{tmp_path / name} ") for line in result.skipped) == 1


def test_missing_repository_is_an_error(tmp_path: Path) -> None:
    """It is not the same as one without models."""
    assert scan(tmp_path).versions == {}
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "none")


def test_signature_changes_with_every_change_of_a_file(tmp_path: Path) -> None:
    """Content of another length, a new, renamed or removed file, a file that replaces another; also in folders."""
    folder = tmp_path / "1"
    make_files(folder, "manifest.json", "weights.bin", "parts/more.bin")
    seen = [signature(folder)]
    assert signature(folder) == seen[0]

    def assert_changed() -> None:
        now = signature(folder)
        assert now not in seen
        seen.append(now)

    (folder / "parts" / "more.bin").write_bytes(b"longer")
    assert_changed()
    make_files(folder, "new")
    assert_changed()
    (folder / "new").rename(folder / "newer")
    assert_changed()
    status = (folder / "weights.bin").stat()
    (folder / "replacement").write_bytes(b"y")
    os.utime(folder / "replacement", ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "replacement").replace(folder / "weights.bin")
    assert_changed()
    (folder / "newer").unlink()
    assert_changed()


def test_signature_of_nothing(tmp_path: Path) -> None:
    """No folder, and one without files."""
    assert signature(tmp_path) == signature(tmp_path / "none") == GONE


def test_what_an_engine_keeps_changes_no_signature(tmp_path: Path) -> None:
    """The server's own cache in a bundle's folder is no change of the bundle."""
    make_files(tmp_path, "manifest.json")
    before = signature(tmp_path)
    make_files(tmp_path, "engines/abc/f16.engine")
    assert signature(tmp_path) == before


def test_pinned_version_is_read_from_the_file(tmp_path: Path) -> None:
    """With or without a line's end; None without the file."""
    assert pinned_version(tmp_path) is None
    (tmp_path / "pinned_version").write_text("12\n")
    assert pinned_version(tmp_path) == 12


@pytest.mark.parametrize("content", [b"", b"newest", b"0", b"\xff\xfe", b"1" * 200])
def test_pin_that_is_no_version_is_an_error(tmp_path: Path, content: bytes) -> None:
    """It names the file and what is in it."""
    (tmp_path / "pinned_version").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a positive integer in .*pinned_version, found"):
        pinned_version(tmp_path)
