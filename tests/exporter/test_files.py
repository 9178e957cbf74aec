"""Files and folders that appear whole or not at all."""

import os
from pathlib import Path
from typing import Any

import pytest
import support
from headwise_exporter import files
from headwise_exporter.files import OutputError, atomic_folder, atomic_write, check_writable, write_json


def test_file_appears_with_its_content(tmp_path: Path) -> None:
    """After the block the file is there and the temporary is gone."""
    with atomic_write(tmp_path / "deep" / "a.txt") as temporary:
        temporary.write_text("x")
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    """An error or an interrupt while writing leaves what was there, and nothing beside it."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("new")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    """Nothing can be written below a file; the error says so."""
    (tmp_path / "a").write_text("old")
    with pytest.raises(OutputError, match=r"cannot write .*a/b/c.txt"), atomic_write(tmp_path / "a" / "b" / "c.txt"):
        pass
    with pytest.raises(OutputError, match=r"cannot write .*a/b/c"), atomic_folder(tmp_path / "a" / "b" / "c"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_full_disk_leaves_no_file(tmp_path: Path) -> None:
    """A write that the system refuses half-way is an OutputError, and no part of the file stays."""
    code = """
import sys, pathlib
from headwise_exporter.files import OutputError, atomic_write
try:
    with atomic_write(pathlib.Path(sys.argv[1])) as temporary:
        temporary.write_bytes(bytes(100_000))
except OutputError as error:
    print(error)
"""
    process = support.run_with_little_room(code, 4096, str(tmp_path / "big.bin"))
    assert "cannot write" in process.stdout, process.stderr
    assert "Free space" in process.stdout
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    """After the block the folder is there, and not before."""
    with atomic_folder(tmp_path / "x" / "1") as temporary:
        (temporary / "a").write_text("a")
        assert not (tmp_path / "x" / "1").exists()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["1"]
    assert (tmp_path / "x" / "1" / "a").read_text() == "a"


def test_folder_is_replaced_whole(tmp_path: Path) -> None:
    """A folder that stood there is replaced; no file of the old one stays."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_text("old")
    with atomic_folder(tmp_path / "x") as temporary:
        (temporary / "new").write_text("new")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["x", "x/new"]


def test_error_leaves_the_old_folder(tmp_path: Path) -> None:
    """An error while filling leaves the folder that was there."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "x") as temporary:
        (temporary / "new").write_text("new")
        raise RuntimeError
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["x", "x/old"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    """NaN is not JSON; nothing is written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    """A folder that cannot be made is an error that names it and says what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write to .*file/models.*Choose a folder"):
        check_writable(tmp_path / "file" / "models")


def test_writable_folder_is_left_empty(tmp_path: Path) -> None:
    """The check makes the folder and leaves nothing in it."""
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_windows_flushes_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a folder cannot be opened, nor a file flushed that is open for reading alone."""
    system_open, writable = os.open, set()

    def windows_open(path: Any, flags: int, *arguments: Any, **others: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        descriptor = system_open(path, flags, *arguments, **others)
        (writable.add if flags & os.O_RDWR else writable.discard)(descriptor)
        return descriptor

    def windows_fsync(descriptor: int) -> None:
        if descriptor not in writable:
            raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_fsync)
    with atomic_folder(tmp_path / "x") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("a")
    assert (tmp_path / "x" / "inner" / "a").read_text() == "a"
