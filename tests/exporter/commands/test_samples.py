"""`exporter samples`: images of a data set as files."""

import errno
import os
from pathlib import Path

import pytest
from PIL import Image
from support import exporter


def test_samples_are_the_scans_themselves(tmp_path: Path) -> None:
    """PNG files of the split asked for, named by index and label."""
    result = exporter("samples", "digits", "--out", tmp_path, "--count", "2", "--split", "validation")
    assert result.exit_code == 0
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    for path in files:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((8, 8), "L")
    assert exporter("samples", "digits", "--out", tmp_path, "--split", "all").exit_code == 2


def test_sample_on_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no part of a file stays."""

    def save(image: Image.Image, path: Path, kind: str) -> None:
        path.write_bytes(b"\x89PNG")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", save)
    result = exporter("samples", "digits", "--out", tmp_path)
    assert result.exit_code == 1
    assert "No space left on device. Free space or choose another folder." in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("label", ["a" * 250, "\u82b1" * 80])
def test_sample_of_a_label_with_a_long_name_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    """The name of its file is no longer than a file system takes."""
    monkeypatch.setenv("HEADWISE_CACHE", str(tmp_path / "cache"))
    for name in (label, "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    dataset, out = f"folder:{tmp_path / 'photos'}", tmp_path / "out"
    result = exporter("samples", dataset, "--out", out, "--count", "4", "--image-size", "8")
    assert result.exit_code == 0, result.output
    assert len(list(out.iterdir())) == 2
