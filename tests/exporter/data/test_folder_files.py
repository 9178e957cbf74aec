"""Which files of a folder are images, and what becomes of the others."""

from pathlib import Path

import pytest
from headwise_exporter.data.base import DatasetError
from headwise_exporter.data.folder_files import Folder, describe_skipped, look_through
from headwise_exporter.progress import silent
from PIL import Image

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0"
JPEG_XL = b"\xff\x0a\xfa\x1f"


def png(path: Path) -> Path:
    """A small image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "PNG")
    return path


def looked_through(root: Path) -> Folder:
    """What a folder holds."""
    return look_through(root, silent)


def test_content_says_what_is_an_image(tmp_path: Path) -> None:
    """Not the suffix; but what is only called an image stays one, for decoding to refuse it by name."""
    images = [png(tmp_path / "a" / name) for name in ("1.png", "2.jpg", "3")]
    (tmp_path / "a" / "called.jpg").write_text("not an image")
    (tmp_path / "a" / "notes.txt").write_text("BMW parked beside the tree")
    folder = looked_through(tmp_path)
    assert folder.all_images() == [*images, tmp_path / "a" / "called.jpg"]
    assert describe_skipped(folder.all_skipped()) == "1 other file (.txt)"


def test_nothing_is_left_out_without_a_reason(tmp_path: Path) -> None:
    """Kinds that are not read, broken links and links in a circle are counted, the most frequent first."""
    png(tmp_path / "a" / "1.png")
    for number in range(3):
        (tmp_path / "a" / f"{number}.jxl").write_bytes(JPEG_XL)
    (tmp_path / "a" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    folder = looked_through(tmp_path)
    assert describe_skipped(folder.all_skipped()) == "3 JPEG XL, 1 broken link, 1 link to a folder above"


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    """Images that a label links to are its images."""
    png(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "2.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    folder = looked_through(tmp_path / "root")
    assert [len(inner.images) for inner in folder.folders.values()] == [1, 1]
    assert folder.all_skipped() == []


@pytest.mark.parametrize("name", [".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found"])
def test_what_systems_leave_behind_is_no_label(tmp_path: Path, name: str) -> None:
    """Folders of systems, editors and archivers are passed over."""
    png(tmp_path / name / "1.png")
    png(tmp_path / "a" / "1.png")
    png(tmp_path / "a" / "._1.png")
    folder = looked_through(tmp_path)
    assert (list(folder.folders), folder.all_skipped()) == (["a"], [])


def test_other_hidden_folders_are_said(tmp_path: Path) -> None:
    """A label may start with a dot; nobody would look for it among the hidden ones."""
    for label in (".net", "java"):
        png(tmp_path / label / "1.png")
    (tmp_path / "scripts" / ".venv").mkdir(parents=True)
    folder = looked_through(tmp_path)
    assert list(folder.folders) == ["java"]
    assert describe_skipped(folder.all_skipped()) == "2 hidden folder (.net, .venv)"


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "heic", "jp2", "ppm"])
def test_suffix_of_an_image_is_not_left_out(tmp_path: Path, suffix: str) -> None:
    """The pointer that Git LFS leaves instead of a photo is for decoding to refuse."""
    path = tmp_path / f"1.{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    assert looked_through(tmp_path).all_images() == [path]


def test_folder_of_annotations_is_no_label(tmp_path: Path) -> None:
    """Other files alone make no label; an empty folder and one of unreadable images do, and are then too small."""
    png(tmp_path / "a" / "1.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "1.xml").write_text("<xml/>")
    (tmp_path / "empty").mkdir()
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.jxl").write_bytes(JPEG_XL)
    folder = looked_through(tmp_path)
    assert list(folder.folders) == ["a", "empty", "phone"]
    assert describe_skipped(folder.all_skipped()) == "1 other file (.xml), 1 JPEG XL"


@pytest.mark.parametrize("method", ["iterdir", "is_dir", "open"])
def test_what_may_not_be_read_is_one_clear_error(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder or file without permission is named, with the system's reason."""
    image = png(tmp_path / "a" / "1.png")
    denied = image.parent if method == "iterdir" else image
    original = getattr(Path, method)

    def refused(path: Path, *arguments: object) -> object:
        if path == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments)

    monkeypatch.setattr(Path, method, refused)
    with pytest.raises(DatasetError, match=r"(?s)cannot read .*Permission denied") as caught:
        looked_through(tmp_path)
    assert str(denied) in str(caught.value)


def test_folders_within_each_other_are_bounded(tmp_path: Path) -> None:
    """A hundred levels are refused, not a recursion without end."""
    png(Path(tmp_path, *["d"] * 100, "1.png"))
    with pytest.raises(DatasetError, match="at most 64 folders within each other"):
        looked_through(tmp_path)
