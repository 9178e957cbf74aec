"""A training's teacher: what of it the run records, and which images it is asked about."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import support
from headwise_exporter.data.base import Dataset, DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.progress import silent
from headwise_exporter.recipes import Recipe
from headwise_exporter.stages.build import train_stage
from headwise_exporter.stages.run import training_record
from headwise_exporter.stages.teaching import Teaching, teaching
from headwise_exporter.training.distillation import TeachingSettings
from headwise_exporter.training.taught_views import ImageTeacher
from headwise_exporter.training.teacher_files import TeacherFile
from PIL import Image
from torch import Tensor

DIGITS = TeacherFile("checkpoint:digits")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache."""
    monkeypatch.setenv("HEADWISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def digits() -> Dataset:
    """64 training digits."""
    return support.few_images(load(DatasetSettings("digits")), 64)


def taught(recipe: Recipe, **changed: float) -> Recipe:
    """The recipe with another way of learning from the teacher."""
    return replace(recipe, teaching=TeachingSettings(**changed))  # type: ignore[arg-type]  # views is a whole number


def test_changed_teacher_trains_again(digits: Dataset, tmp_path: Path) -> None:
    """Another file, other settings or none; the same is up to date, and recorded."""
    recipe, run = support.small_recipe(), tmp_path / "run"

    def train(recipe: Recipe, file: TeacherFile | None) -> bool:
        return train_stage(run, recipe, digits, silent, teacher=file)

    assert train(recipe, DIGITS)
    record = training_record(run)["teacher"]
    assert (record["file"], record["image_size"], record["views"]) == ("checkpoint:digits", 8, 20)
    assert len(record["sha256"]) == 64
    assert not train(recipe, DIGITS)
    assert train(taught(recipe, temperature=2.0), DIGITS)
    assert train(taught(recipe, views=1), DIGITS)
    assert train(recipe, None)
    assert training_record(run)["teacher"] is None
    assert not train(recipe, None)


def test_labels_alone_need_no_teacher(digits: Dataset) -> None:
    """With a label_share of 1 the teacher is not even read."""
    recipe = taught(support.small_recipe(), label_share=1.0)
    assert teaching(TeacherFile("nowhere.onnx"), recipe, digits) is None
    assert teaching(None, support.small_recipe(), digits) is None


def test_no_more_views_are_asked_than_there_are_epochs(digits: Dataset) -> None:
    """Here three."""
    chosen = teaching(DIGITS, support.small_recipe(), digits)
    assert chosen is not None
    lines: list[str] = []
    assert chosen.views(digits, "fingerprint", silent, lines.append).views.count == 3
    assert lines[0].startswith("teacher: asked about 3 views of 64 images")


class Sixteen(ImageTeacher):
    """A teacher that takes 16 px and remembers the spread of what it saw."""

    identity, size, labels = "sixteen", 16, 2

    def __init__(self) -> None:
        self.neighbours: list[float] = []

    def logits(self, images_BCYX: Tensor) -> Tensor:
        """Logits (B, 2)."""
        self.neighbours.append(float((images_BCYX[..., 1:] - images_BCYX[..., :-1]).abs().mean()))
        return images_BCYX.mean((1, 2, 3)).unsqueeze(1).repeat(1, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Dataset:
    """40 photos of noise at 16 px, read at 8."""
    generator = np.random.default_rng(0)
    for label in ("one", "two"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    return load(DatasetSettings(f"folder:{tmp_path / 'photos'}", image_size=8))


def test_teacher_of_larger_images_sees_larger_photos(folder: Dataset) -> None:
    """Which are sharper than the student's enlarged; except where noise is drawn for each pixel."""
    plain = support.small_recipe()
    noisy = replace(plain.training.augmentation, erasing=1e-9)
    blurred_recipe = replace(plain, training=replace(plain.training, augmentation=noisy))
    seen = []
    for recipe in (plain, blurred_recipe):
        teacher = Sixteen()
        Teaching(DIGITS, teacher, recipe).views(folder, "fingerprint", silent, lambda line: None)
        seen.append(np.mean(teacher.neighbours))
    assert seen[0] > 2 * seen[1]
