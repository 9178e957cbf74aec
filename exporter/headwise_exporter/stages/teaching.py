"""The teacher of a training: loaded, checked, and asked about every view of the data set's images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headwise_exporter import distributed
from headwise_exporter.data import datasets
from headwise_exporter.data.base import Dataset
from headwise_exporter.data.images import LabelledImages, labelled_images
from headwise_exporter.progress import Progress
from headwise_exporter.recipes import Recipe
from headwise_exporter.training.taught_views import (
    ImageTeacher,
    TaughtViews,
    TeacherError,
    Views,
    shares_views,
    taught_views,
)
from headwise_exporter.training.teacher_files import TeacherFile, load_teacher


@dataclass(frozen=True)
class Teaching:
    """A teacher, and what a training learns from it."""

    file: TeacherFile
    teacher: ImageTeacher
    recipe: Recipe

    def settings(self) -> dict[str, Any]:
        """All that a training depends on beside its own settings and images."""
        teaching = self.recipe.teaching
        return {
            "sha256": self.teacher.identity,
            "temperature": teaching.temperature,
            "label_share": teaching.label_share,
            "views": teaching.views,
        }

    def record(self) -> dict[str, Any]:
        """What a run's record says of it."""
        return {"file": Path(self.file.path).name, "image_size": self.teacher.size, **self.settings()}

    def views(self, dataset: Dataset, fingerprint: str, progress: Progress, say: Callable[[str], None]) -> TaughtViews:
        """What the teacher says of every view that some epoch trains on; the main process asks, the others read.

        Args:
            fingerprint: of the data set.

        Raises:
            TeacherError, OutputError, DatasetError: as `taught_views`.
        """
        training, teaching = self.recipe.training, self.recipe.teaching
        views = Views(
            min(teaching.views, training.epochs),
            len(dataset.train),
            training.batch_size,
            training.seed,
            training.augmentation,
        )
        with distributed.main_first():
            images = self._images(dataset, progress)
            key = f"{fingerprint} {images.images_NYXC.shape[1]} px"
            return taught_views(self.teacher, views, images, teaching, key, progress, say)

    def _images(self, dataset: Dataset, progress: Progress) -> LabelledImages:
        """The training images as large as the teacher takes them, if there are such; else the student's own."""
        own = dataset.train.images_NYXC.shape[1]
        source = datasets.DATASETS[dataset.settings.kind]
        shown = dataset
        if self.teacher.size > own and source.any_size and shares_views(self.recipe.training.augmentation):
            shown = datasets.load(replace(dataset.settings, image_size=self.teacher.size), progress)
            if not np.array_equal(shown.train.labels_N, dataset.train.labels_N):
                raise TeacherError("the data set changed while it was read. Run again.")
        return labelled_images(shown.train, shown.mean, shown.std)


def teaching(file: TeacherFile | None, recipe: Recipe, dataset: Dataset) -> Teaching | None:
    """The teacher that is asked for, checked; None for none, and where all is learnt from the labels.

    Raises:
        TeacherError, CheckpointError: there is none, or it does not fit the data set.
    """
    if file is None or recipe.teaching.label_share == 1:
        return None
    return Teaching(file, load_teacher(file, dataset.label_names, dataset.mean, dataset.std), recipe)
