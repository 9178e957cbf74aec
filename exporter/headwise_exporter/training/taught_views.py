"""What a teacher says of the very images that a student is going to be trained on, asked once and kept in a file.

A view of the images is one epoch of the student's training: its batches, augmented and mixed, all drawn from `(seed,
view)`. There are V views; epoch e trains on view e mod V. So the teacher is asked about each augmented image once,
however many epochs there are, and the student sees exactly what the teacher saw; only dropout differs from epoch to
epoch. [Function matching: Beyer et al., "A good teacher is patient and consistent", arXiv:2106.05237.]

The file is `<cache>/logits/<key>.npy`, float16 (V * N, K), rows in the order of the training, mapped into memory. Its
key is a hash of the teacher, the images, the augmentation, the seed, the batches and V. It is written batch by batch to
`.<key>.partial`, whose length says how far it is: what was interrupted goes on there. The folder's limit is that of the
decoded images (`data.cache`).

Where the teacher takes larger images than the student and the data set has them, it is asked about the same views of
the larger images: random numbers of the augmentation are shares of the image's side, so the same state gives the same
crop at either size, to a pixel of the smaller.

Shape suffixes as in `model.cct`; V views, N images, R rows.
"""

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from headwise_exporter.data.augmentation import AugmentationSettings, prepare
from headwise_exporter.data.cache import cache_folder, cache_limit_bytes, make_room
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.errors import ExporterError
from headwise_exporter.files import OutputError
from headwise_exporter.progress import Progress, counted
from headwise_exporter.training.batches import order, seed_batch, steps_of_epoch
from headwise_exporter.training.distillation import DistillationSettings

BYTES = 2  # of a float16


class TeacherError(ExporterError):
    """A teacher cannot be read, does not fit the data set, or says what is no number."""


class ImageTeacher(Protocol):
    """Anything that gives logits for images."""

    @property
    def identity(self) -> str:
        """A hash over all that its answers depend on."""
        ...

    @property
    def size(self) -> int:
        """Pixels a side of the images that it takes."""
        ...

    @property
    def labels(self) -> int:
        """Number of labels, K."""
        ...

    def logits(self, images_BCYX: Tensor) -> Tensor:
        """Logits (B, K) for images in 0 .. 1, of `size` pixels a side."""
        ...


@dataclass(frozen=True)
class Views:
    """The augmented images that there are."""

    count: int  # V
    images: int  # N
    batch_size: int
    seed: int
    augmentation: AugmentationSettings

    @property
    def steps(self) -> int:
        """Batches of a view."""
        return steps_of_epoch(self.images, self.batch_size)

    @property
    def rows(self) -> int:
        """Augmented images of all views."""
        return self.count * self.images

    def view(self, epoch: int) -> int:
        """That an epoch, from 0, trains on."""
        return epoch % self.count

    def batches(self, view: int) -> tuple[Tensor, ...]:
        """Indices of the images of each batch of a view."""
        return order(self.images, self.batch_size, self.seed, view)

    def first_row(self, step: int) -> int:
        """Of the batch of a step, from 0, counted over all views."""
        view, batch = divmod(step, self.steps)
        return view * self.images + batch * self.batch_size

    def prepare(
        self, data: LabelledImages, batch: Tensor, step: int, labels: int, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """What `data.augmentation.prepare` gives for the batch of a step; the same in every process."""
        seed_batch(self.seed, step % (self.count * self.steps))
        return prepare(
            data.pixels(batch),
            data.labels_N[batch.to(data.device)],
            self.augmentation,
            mean=data.mean,
            std=data.std,
            labels=labels,
            smoothing=smoothing,
        )


@dataclass(frozen=True)
class TaughtViews:
    """Views of the images, and what the teacher says of each."""

    views: Views
    settings: DistillationSettings
    logits_RK: NDArray[np.float16]  # mapped from a file

    def logits(self, step: int, images: int) -> Tensor:
        """What the teacher says (B, K) of the batch of a step, of so many images; float32, on the CPU."""
        first = self.views.first_row(step % (self.views.count * self.views.steps))
        return torch.from_numpy(np.asarray(self.logits_RK[first : first + images], np.float32))


def shares_views(augmentation: AugmentationSettings) -> bool:
    """Whether the same random state gives the same view at any size: it draws no number for each pixel."""
    return not (augmentation.erasing and augmentation.erasing_noise)


def _resized(images_BCYX: Tensor, size: int) -> Tensor:
    """Images of another size, bilinear; where they become smaller, antialiased."""
    if images_BCYX.shape[-1] == size:
        return images_BCYX
    return functional.interpolate(images_BCYX, (size, size), mode="bilinear", align_corners=False, antialias=True)


def ask(teacher: ImageTeacher, views: Views, data: LabelledImages, step: int, batch: Tensor) -> Tensor:
    """What the teacher says (B, K) of the batch of a step.

    Args:
        data: images of any size.

    Raises:
        TeacherError: it says what is no number, or none that float16 has.
    """
    images_BCYX, _ = views.prepare(data, batch, step, teacher.labels, 0.0)
    mean_C11, std_C11 = (images_BCYX.new_tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    unit_BCYX = (images_BCYX * std_C11 + mean_C11).clamp_(0.0, 1.0)
    logits_BK = teacher.logits(_resized(unit_BCYX, teacher.size)).float().cpu()
    if logits_BK.shape != (len(batch), teacher.labels):
        raise TeacherError(
            f"expected logits of shape ({len(batch)}, {teacher.labels}) from the teacher, found"
            f" {tuple(logits_BK.shape)}. Give a classifier of the data set's labels."
        )
    if not logits_BK.half().isfinite().all():
        raise TeacherError(
            "expected finite logits below 65,504 from the teacher, found others. Check that it takes images normalised"
            " as stated (--teacher-mean, --teacher-std)."
        )
    return logits_BK


def _key(teacher: ImageTeacher, views: Views, fingerprint: str) -> str:
    content = {"format": 1, "teacher": teacher.identity, "views": asdict(views), "images": fingerprint}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _open(path: Path, views: Views, labels: int) -> NDArray[np.float16] | None:
    """The file's logits; None where there is none, or one of another kind."""
    try:
        logits_RK = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    kind = (type(logits_RK), logits_RK.shape, logits_RK.dtype)
    return logits_RK if kind == (np.memmap, (views.rows, labels), np.float16) else None


def _check_size(needed_bytes: int, views: Views) -> None:
    if needed_bytes > (limit := cache_limit_bytes()):
        raise OutputError(
            f"{views.count:,} views of {views.images:,} images make {needed_bytes / 2**30:.1f} GiB of logits, beyond"
            f" the caches' limit of {limit / 2**30:.1f} GiB. Take fewer (--set teaching.views=N), or raise"
            " HEADWISE_CACHE_GIB."
        )


@contextlib.contextmanager
def _alone(file: BinaryIO, path: Path) -> Iterator[None]:
    """Nobody else writes to the file while the context is open; on systems without such locks, nothing is checked."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"{path}: another run is asking the same teacher. Wait until it is done.") from error
    yield


def _steps_done(file: BinaryIO, header: bytes, views: Views, labels: int) -> int:
    """Whole batches that the file has; what is behind them, or all of another kind, is cut off."""
    file.seek(0)
    if file.read(len(header)) != header:
        file.seek(0)
        file.truncate()
        file.write(header)
        return 0
    rows = (file.seek(0, os.SEEK_END) - len(header)) // (labels * BYTES)
    view, rest = divmod(rows, views.images)
    step = view * views.steps + rest // views.batch_size
    file.seek(len(header) + views.first_row(step) * labels * BYTES)
    file.truncate()
    return step


def _header(views: Views, labels: int) -> bytes:
    content = io.BytesIO()
    described = {"descr": "<f2", "fortran_order": False, "shape": (views.rows, labels)}
    np.lib.format.write_array_header_1_0(content, described)
    return content.getvalue()


def _write(
    file: BinaryIO, teacher: ImageTeacher, views: Views, data: LabelledImages, header: bytes, progress: Progress
) -> None:
    done = _steps_done(file, header, views, teacher.labels)
    with progress("ask the teacher", views.rows, "images") as advance:
        advance(views.first_row(done), resumed=True)
        for view in range(done // views.steps, views.count):
            for number, batch in enumerate(views.batches(view)):
                step = view * views.steps + number
                if step < done:
                    continue
                logits_BK = ask(teacher, views, data, step, batch)
                # Written and not mapped: on a full disk a write is an error, a mapped page ends the process.
                file.write(logits_BK.half().numpy().tobytes())
                file.flush()
                advance(len(batch))
    os.fsync(file.fileno())


def taught_views(
    teacher: ImageTeacher,
    views: Views,
    data: LabelledImages,
    settings: DistillationSettings,
    fingerprint: str,
    progress: Progress,
    say: Callable[[str], None] = lambda line: None,
) -> TaughtViews:
    """Ask the teacher about every view, unless that was done before.

    Args:
        data: the images that the teacher is asked about, in the order of the student's.
        fingerprint: of these images.
        say: called with a line that says how large the file becomes, before it is made.

    Raises:
        TeacherError: as `ask`.
        OutputError: the file would be larger than caches may be, cannot be written, or is being written.
        DatasetError: the caches' limit is no number.
    """
    folder, key = cache_folder() / "logits", _key(teacher, views, fingerprint)
    path, partial = folder / f"{key}.npy", folder / f".{key}.partial"
    if (kept := _open(path, views, teacher.labels)) is not None:
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(path)
        return TaughtViews(views, settings, kept)
    needed = views.rows * teacher.labels * BYTES
    _check_size(needed, views)
    say(
        f"teacher: asked about {counted(views.count, 'views')} of {views.images:,} images,"
        f" {math.ceil(needed / 2**20):,} MiB of logits in {path}"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make_room(folder, needed)
        with partial.open("a+b") as file, _alone(file, path):
            _write(file, teacher, views, data, _header(views, teacher.labels), progress)
            partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}. Free space.") from error
    if (made := _open(path, views, teacher.labels)) is None:
        raise OutputError(f"{path} is not what was written. Something else writes to it, or the disk fails.")
    return TaughtViews(views, settings, made)
