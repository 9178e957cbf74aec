"""A teacher is asked once about the images that a student is going to see."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from headwise_exporter.data.augmentation import AugmentationSettings
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.files import OutputError
from headwise_exporter.progress import silent
from headwise_exporter.training.distillation import TeachingSettings
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings
from headwise_exporter.training.taught_views import (
    TaughtViews,
    TeacherError,
    Views,
    ask,
    shares_views,
    taught_views,
)
from torch import Tensor, nn
from torch.nn import functional

IMAGES, LABELS = 50, 10
AUGMENTATION = AugmentationSettings(crop_area_min=0.5, flip=0.5, rotation_degrees=10, mixup=0.8, cutmix=1.0)
SETTINGS = TeachingSettings(views=3)
VIEWS = Views(count=3, images=IMAGES, batch_size=16, seed=0, augmentation=AUGMENTATION)


@dataclass
class Pooling:
    """A teacher whose logits are sums over ten groups of pixels, and which remembers what it was asked."""

    identity: str = "pooling"
    size: int = 8
    labels: int = LABELS
    scale: float = 1.0
    stops_after: int | None = None  # batches
    asked: list[Tensor] = field(default_factory=list)

    def logits(self, images_BCYX: Tensor) -> Tensor:
        """Logits (B, 10)."""
        if self.stops_after is not None and len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        self.asked.append(images_BCYX)
        return self.scale * functional.adaptive_avg_pool1d(images_BCYX.flatten(1), LABELS)


@pytest.fixture
def data() -> LabelledImages:
    """50 random images, five of each label."""
    return support.random_images(torch.arange(IMAGES) % LABELS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder of logits in it."""
    monkeypatch.setenv("HEADWISE_CACHE", str(tmp_path))
    return tmp_path / "logits"


def asked(
    teacher: Pooling, data: LabelledImages, views: Views = VIEWS, say: Callable[[str], None] = print
) -> TaughtViews:
    """What the teacher says of all views."""
    return taught_views(teacher, views, data, SETTINGS, "fingerprint", silent, say)


def test_student_sees_what_the_teacher_saw(data: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every epoch, mixed images too; and the rows of the batch are what the teacher says of them."""
    teacher, seen = Pooling(), []
    taught = asked(teacher, data)
    model = support.random_model()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    train(model, data, settings(epochs=4), teacher=taught)
    batches = len(VIEWS.batches(0))
    assert len(seen) == 4 * batches
    shown = [images * data.std[0] + data.mean[0] for images in seen]
    for step, (images, answered) in enumerate(zip(shown, [*teacher.asked, *teacher.asked[:batches]], strict=True)):
        torch.testing.assert_close(images.contiguous(), answered, atol=1e-5, rtol=0)
        torch.testing.assert_close(taught.logits(step, len(images)), teacher.logits(answered), atol=1e-3, rtol=0)


def settings(epochs: int) -> TrainingSettings:
    """Of a training on the views."""
    return TrainingSettings(epochs=epochs, warm_up_epochs=1, batch_size=16, augmentation=AUGMENTATION)


def test_epochs_go_through_the_views_again_and_again() -> None:
    """Epoch e trains on view e mod V."""
    assert [VIEWS.view(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]
    assert not torch.equal(torch.cat(VIEWS.batches(0)), torch.cat(VIEWS.batches(1)))


def test_teacher_is_asked_once(data: LabelledImages) -> None:
    """A second training reads the file; another teacher, seed or augmentation makes another."""
    asked(Pooling(), data)
    again = Pooling()
    asked(again, data)
    assert not again.asked
    for teacher, views in (
        (Pooling("another"), VIEWS),
        (Pooling(), replace(VIEWS, seed=1)),
        (Pooling(), replace(VIEWS, batch_size=8)),
        (Pooling(), replace(VIEWS, augmentation=replace(AUGMENTATION, flip=0.0))),
    ):
        asked(teacher, data, views)
        assert teacher.asked


@pytest.mark.parametrize("torn_bytes", [0, 7])
def test_interrupted_asking_goes_on_where_it_stopped(data: LabelledImages, cache: Path, torn_bytes: int) -> None:
    """At the batch, also where half of one was written; the rows are those of one that was not interrupted."""
    whole = np.array(asked(Pooling(), data).logits_RK)
    (made,) = cache.glob("*.npy")
    made.unlink()
    with pytest.raises(KeyboardInterrupt):
        asked(Pooling(stops_after=6), data)
    (partial,) = cache.glob(".*.partial")
    with partial.open("ab") as file:
        file.write(b"x" * torn_bytes)
    teacher = Pooling()
    assert np.array_equal(asked(teacher, data).logits_RK, whole)
    assert len(teacher.asked) == VIEWS.count * VIEWS.steps - 6
    assert not list(cache.glob(".*"))


def test_damaged_file_is_made_again(data: LabelledImages, cache: Path) -> None:
    """Of another length, or no array at all."""
    asked(Pooling(), data)
    (made,) = cache.glob("*.npy")
    made.write_bytes(made.read_bytes()[:-2])
    teacher = Pooling()
    asked(teacher, data)
    assert teacher.asked


def test_size_is_said_before_and_bounded(data: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the caches' limit nothing is asked."""
    lines: list[str] = []
    asked(Pooling(), data, say=lines.append)
    assert lines[0].startswith("teacher: asked about 3 views of 50 images, 1 MiB of logits in ")
    monkeypatch.setenv("HEADWISE_CACHE_GIB", "1e-7")
    with pytest.raises(OutputError, match=r"3 views of 50 images make .* beyond the caches' limit.*teaching\.views"):
        asked(Pooling("another"), data)


def test_two_runs_do_not_write_the_same_file(data: LabelledImages, cache: Path) -> None:
    """The second is told to wait."""
    fcntl = pytest.importorskip("fcntl")
    with pytest.raises(KeyboardInterrupt):
        asked(Pooling(stops_after=1), data)
    (partial,) = cache.glob(".*.partial")
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run is asking the same teacher"):
            asked(Pooling(), data)


def test_teacher_that_says_no_numbers_is_refused(data: LabelledImages) -> None:
    """Or numbers that float16 has not, or too few of them."""
    for scale in (float("nan"), 1e9):
        with pytest.raises(TeacherError, match=r"expected finite logits below 65,504"):
            asked(Pooling(scale=scale), data)
    with pytest.raises(TeacherError, match=r"expected logits of shape \(16, 11\)"):
        asked(Pooling(labels=11), data)


def test_larger_images_show_the_same_view(data: LabelledImages) -> None:
    """Of images that are three times as large, reduced: the views differ by their edges alone."""
    smooth_NCYX = nn.functional.interpolate(torch.rand(IMAGES, 1, 3, 3), (24, 24), mode="bicubic").clamp(0, 1)
    large = replace(data, images_NYXC=(255 * smooth_NCYX).round().byte().permute(0, 2, 3, 1))
    reduced_NCYX = functional.interpolate(smooth_NCYX, (8, 8), mode="bilinear", antialias=True)
    small = replace(data, images_NYXC=(255 * reduced_NCYX).round().byte().permute(0, 2, 3, 1))
    cut = replace(VIEWS, augmentation=replace(AUGMENTATION, mixup=0.0, cutmix=0.0))
    teacher, batch = Pooling(), VIEWS.batches(0)[0]
    for images in (small, large):
        ask(teacher, cut, images, 0, batch)
    ask(teacher, cut, large, 1, batch)
    small_BCYX, large_BCYX, other_BCYX = teacher.asked
    assert (small_BCYX - large_BCYX).abs().mean() < 0.03
    assert (other_BCYX - large_BCYX).abs().mean() > 0.1


def test_noise_belongs_to_one_size() -> None:
    """It is drawn for each pixel, so that other sizes would see another view."""
    assert shares_views(AUGMENTATION)
    assert shares_views(replace(AUGMENTATION, erasing=0.5, erasing_noise=False))
    assert not shares_views(replace(AUGMENTATION, erasing=0.5))


def test_interrupted_training_ends_in_the_same_weights(data: LabelledImages, tmp_path: Path) -> None:
    """As one that was not, with the teacher's views."""
    taught, checkpoint = asked(Pooling(scale=20.0), data), tmp_path / "resume.pt"
    whole, resumed = support.random_model(), support.random_model()
    train(whole, data, settings(epochs=4), teacher=taught)

    def stop(epochs: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headwise_exporter.training.loop.CHECKPOINT_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            train(resumed, data, settings(epochs=4), teacher=taught, checkpoint=checkpoint, on_epoch=stop)
    assert checkpoint.exists()
    train(resumed, data, settings(epochs=4), teacher=taught, checkpoint=checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
