"""Images decoded once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import support
from headwise_exporter.data import cache as cache_module
from headwise_exporter.data.base import DatasetError
from headwise_exporter.data.cache import cache_folder, decoded
from headwise_exporter.progress import Advance, silent
from PIL import Image


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five grey images in `images/`, each lighter than the one before."""
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        Image.new("L", (10, 10), 10 * number).save(path)
    return paths


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is decoded from now on."""
    seen: list[Path] = []
    decode = cache_module.decode

    def counted(path: Path, width: int, height: int) -> np.ndarray:
        seen.append(path)
        return decode(path, width, height)

    monkeypatch.setattr(cache_module, "decode", counted)
    return seen


def test_images_are_decoded_once_and_mapped(files: list[Path], decodings: list[Path]) -> None:
    """The second time nothing is decoded; both times images come in the order asked for, from a file."""
    for _ in range(2):
        images_NYXC = decoded("grey", files[0].parent, files[::-1], 8, silent)
        assert isinstance(images_NYXC, np.memmap)
        assert (images_NYXC.shape, images_NYXC.dtype) == ((5, 8, 8, 3), np.uint8)
        assert images_NYXC[:, 0, 0, 0].tolist() == [40, 30, 20, 10, 0]
    assert sorted(decodings) == files


def test_order_does_not_depend_on_which_is_decoded_first(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches smaller than the data set, decoded in threads, end up in order."""
    monkeypatch.setattr(cache_module, "BATCH", 2)
    images_NYXC = decoded("grey", files[0].parent, files, 8, silent)
    assert images_NYXC[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("change", ["size", "name", "order", "content", "version"])
def test_anything_else_is_decoded_again(
    files: list[Path], decodings: list[Path], cache: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another size, data set, order or transformation, or a changed file, is another cache file."""
    decoded("grey", files[0].parent, files, 8, silent)
    name, size = ("other" if change == "name" else "grey"), (9 if change == "size" else 8)
    if change == "content":
        os.utime(files[0], ns=(1, 1))
    if change == "version":
        monkeypatch.setattr(cache_module, "TRANSFORM_VERSION", 0)
    decoded(name, files[0].parent, files[:: -1 if change == "order" else 1], size, silent)
    assert len(decodings) == 10
    assert len(list(cache.rglob("*.npy"))) == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "other shape"])
def test_damaged_cache_is_replaced(files: list[Path], decodings: list[Path], cache: Path, damage: str) -> None:
    """The images are decoded again, without an error."""
    decoded("grey", files[0].parent, files, 8, silent)
    (path,) = cache.rglob("*.npy")
    if damage == "other shape":
        np.save(path, np.zeros((5, 8, 8, 1), np.uint8))
    else:
        path.write_bytes({"truncated": path.read_bytes()[:-1], "empty": b"", "garbage": b"x" * 2000}[damage])
    images_NYXC = decoded("grey", files[0].parent, files, 8, silent)
    assert images_NYXC[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    assert len(decodings) == 10


def test_writing_to_the_images_leaves_the_cache_as_it_is(files: list[Path]) -> None:
    """What one run does to its images no other sees."""
    decoded("grey", files[0].parent, files, 8, silent)[:] = 7
    assert decoded("grey", files[0].parent, files, 8, silent)[4, 0, 0, 0] == 40


def test_unreadable_images_are_named_and_nothing_is_kept(tmp_path: Path, cache: Path) -> None:
    """Up to ten bad files in one message, with the reason, and no half-made cache."""
    paths = [tmp_path / f"{number:02d}.png" for number in range(12)]
    for path in paths:
        path.write_text("x")
    with pytest.raises(DatasetError, match=r"cannot read these images") as caught:
        decoded("bad", tmp_path, paths, 8, silent)
    message = str(caught.value)
    assert "09.png: no image that is read here (JPEG," in message
    assert "10.png" not in message
    assert "There may be more." in message
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_name_of_a_file_stays_on_one_line(tmp_path: Path) -> None:
    """Whatever it is called: a line for each bad file, without what would control a terminal."""
    path = tmp_path / "a\nb\x1b[31m.png"
    path.write_bytes(b"no image")
    with pytest.raises(DatasetError) as caught:
        decoded("bad", tmp_path, [path], 8, silent)
    assert str(caught.value).splitlines()[1].startswith("  a b\ufffd[31m.png: no image that is read here")
    assert len(str(caught.value).splitlines()) == 2


def test_missing_image_is_named(files: list[Path]) -> None:
    """A file that does not exist is an error that names it."""
    files[2].unlink()
    with pytest.raises(DatasetError, match=r"2.png: No such file"):
        decoded("grey", files[0].parent, files, 8, silent)


def test_interrupt_leaves_nothing_half_written(files: list[Path], cache: Path) -> None:
    """Ctrl-C while decoding: no cache file and no temporary."""

    @contextmanager
    def interrupting(description: str, total: int | None, unit: str) -> Iterator[Advance]:
        def advance(count: int = 1, note: str | None = None, *, resumed: bool = False) -> None:
            raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt):
        decoded("grey", files[0].parent, files, 8, interrupting)
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_full_disk_is_one_clear_error(files: list[Path], cache: Path) -> None:
    """A cache that does not fit is refused by name and leaves nothing."""
    code = """
import sys, pathlib
from headwise_exporter.data.cache import decoded
from headwise_exporter.files import OutputError
from headwise_exporter.progress import Advance, silent
folder = pathlib.Path(sys.argv[1])
try:
    decoded("grey", folder, sorted(folder.iterdir()), 200, silent)
except OutputError as error:
    print(error)
"""
    result = support.run_with_little_room(code, 100_000, str(files[0].parent))
    assert "cannot write" in result.stdout, result.stderr
    assert "File too large" in result.stdout
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_progress_counts_images(files: list[Path]) -> None:
    """One step for each image."""
    bars = support.Bars()
    decoded("grey", files[0].parent, files, 8, bars.open)
    assert [(bar.description, bar.total, bar.unit, bar.done) for bar in bars] == [("decode grey", 5, "images", 5)]


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HEADWISE_CACHE, or else XDG_CACHE_HOME, or else the home folder."""
    monkeypatch.setenv("HEADWISE_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"
    monkeypatch.delenv("HEADWISE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "headwise"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "headwise"


def test_replaced_file_of_the_same_size_and_time_is_noticed(files: list[Path], decodings: list[Path]) -> None:
    """Another picture under the same name, with the date and length of the old one."""
    decoded("grey", files[0].parent, files, 8, silent)
    status = files[0].stat()
    replacement = files[0].with_name("other")
    Image.new("L", (10, 10), 200).save(replacement, "PNG")
    replacement.write_bytes(replacement.read_bytes().ljust(status.st_size, b"\0")[: status.st_size])
    os.utime(replacement, ns=(status.st_atime_ns, status.st_mtime_ns))
    replacement.replace(files[0])
    assert (files[0].stat().st_size, files[0].stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert decoded("grey", files[0].parent, files, 8, silent)[0, 0, 0, 0] == 200
    assert len(decodings) == 10


def test_cache_stays_below_its_limit(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not used for longest goes first; what is asked for is made whatever the limit."""
    root = files[0].parent
    monkeypatch.setenv("HEADWISE_CACHE_GIB", "1")
    for size in (8, 9, 10):
        decoded("grey", root, files, size, silent)
    paths = {size: next(cache.rglob(f"grey-{size}px-*.npy")) for size in (8, 9, 10)}
    for age_seconds, size in ((30, 8), (20, 9), (10, 10)):
        os.utime(paths[size], (1e9 - age_seconds, 1e9 - age_seconds))
    decoded("grey", root, files, 8, silent)  # used again
    total_bytes = sum(path.stat().st_size for path in paths.values())
    monkeypatch.setenv("HEADWISE_CACHE_GIB", str((total_bytes + 1) / (1 << 30)))
    decoded("grey", root, files, 4, silent)
    assert [size for size, path in paths.items() if path.is_file()] == [8, 10]
    monkeypatch.setenv("HEADWISE_CACHE_GIB", "1e-9")
    assert len(decoded("grey", root, files, 12, silent)) == 5
    assert [path.name[:9] for path in cache.rglob("*.npy")] == ["grey-12px"]


def test_abandoned_temporary_files_are_deleted(files: list[Path], cache: Path) -> None:
    """Half a file of a process that was killed a day ago goes; one that is being written stays."""
    folder = cache / "images"
    folder.mkdir(parents=True)
    old, new = folder / ".grey.npy.1.partial", folder / ".grey.npy.2.partial"
    old.touch()
    new.touch()
    os.utime(old, (1e9, 1e9))
    decoded("grey", files[0].parent, files, 8, silent)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("limit", ["many", "-1", "nan", "inf"])
def test_limit_that_is_no_number_is_refused(files: list[Path], monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """The error names the variable."""
    monkeypatch.setenv("HEADWISE_CACHE_GIB", limit)
    with pytest.raises(DatasetError, match=r"expected a positive number of GiB in HEADWISE_CACHE_GIB, found"):
        decoded("grey", files[0].parent, files, 8, silent)
