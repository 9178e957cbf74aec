"""A run for some labels of a trained run: the stage that makes its folder, on which all other stages work.

    specialise   the dense model of a run -> original.safetensors, dense.safetensors, training.json of another run

The new run's data set is that of the chosen labels (`data.label_subsets`), its dense model that of the other run with
its classifier head's rows of them (`pruning.specialisation`). Measuring, pruning and export are those of any run, but
that what is pruned learns from the original model's logits of these labels, and is compared with the original.

A specialised run is pruned without masks, by `taylor`, in larger rounds than others, as far fewer units are needed;
each fine-tuning goes through as many images as one of the whole data set would, in more epochs [our choice].
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from headwise.bundle import file_sha256

from headwise_exporter.data.base import Dataset
from headwise_exporter.data.images import split_images
from headwise_exporter.data.label_subsets import choose_labels
from headwise_exporter.errors import ExporterError
from headwise_exporter.files import atomic_write, write_json
from headwise_exporter.model.checkpoints import load_model, save_model
from headwise_exporter.pruning.names import AUTO, NONE
from headwise_exporter.pruning.settings import PruneSettings, SearchSettings
from headwise_exporter.pruning.specialisation import other_shift, specialised_head
from headwise_exporter.recipes import Recipe
from headwise_exporter.stages.original import SpecialisedFrom
from headwise_exporter.stages.run import DENSE, ORIGINAL, PRUNING, TRAINING, pruning_record, trained_recipe
from headwise_exporter.stages.stage import Stage, carry_out

SPECIALISE_STAGE = Stage("specialise", (), (ORIGINAL, DENSE, TRAINING))
FOLDER = "specialised"  # of a run's folder, for the runs made from it
CRITERION = "taylor"
ROUND = 0.6  # what a round of removal leaves of the cost before it


class SpecialisationError(ExporterError):
    """There is no model for the chosen labels that is as good as was asked for."""


def specialised_name(labels: Sequence[str], *, other: bool) -> str:
    """Names a run and its model by how many labels they have, and which."""
    digest = hashlib.sha256(json.dumps([*labels]).encode()).hexdigest()[:8]
    return f"{len(labels)}_labels{'_and_other' if other else ''}_{digest}"


def specialised_recipe(recipe: Recipe, whole: int, images: int) -> Recipe:
    """How a run for some labels is pruned where nothing else is asked for.

    Args:
        recipe: of the run that it is made from.
        whole: training images of that run.
        images: those of the chosen labels.
    """
    prune = replace(
        recipe.prune,
        layers=AUTO,
        mask_by=NONE,
        criterion=CRITERION,
        removal="search",
        search=SearchSettings(round=ROUND),
        epochs=max(recipe.prune.epochs, round(recipe.prune.epochs * whole / images)),
        max_drop_points=PruneSettings.max_drop_points,
    )
    return replace(recipe, prune=prune)


def _origin(source: Path, whole: Dataset, chosen: Dataset) -> SpecialisedFrom:
    shift = None
    if chosen.settings.other:
        named = chosen.settings.labels or ()
        is_named_N = [whole.label_names[label] in named for label in whole.train.labels_N.tolist()]
        here = sum(chosen.train.labels_N < len(named))
        counts = (sum(is_named_N), len(whole.train) - sum(is_named_N), int(here), len(chosen.train) - int(here))
        shift = other_shift(*counts)
    return SpecialisedFrom(source.resolve().name, file_sha256(source / DENSE), whole.label_names, shift)


def specialise_stage(
    source: Path, run: Path, dataset: Dataset, labels: Sequence[str], *, other: bool
) -> tuple[Dataset, bool]:
    """Make the folder of a run for some labels.

    Args:
        source: a run with a trained model.
        run: folder of the new run.
        dataset: the source's.
        labels: the chosen ones, in the order of the new model's logits.
        other: whether one more stands for all others.

    Returns:
        The new run's data set, and True when there was something to do.

    Raises:
        DatasetError: these labels cannot be chosen (`check_labels`).
        RunError, CheckpointError: the source has no trained model.
        OutputError: the system refused a write.
    """
    chosen = choose_labels(dataset, labels, other=other)
    recipe = specialised_recipe(trained_recipe(source), len(dataset.train), len(chosen.train))
    origin = _origin(source, dataset, chosen)

    def produce() -> None:
        with atomic_write(run / ORIGINAL) as temporary:
            shutil.copyfile(source / DENSE, temporary)
        reading = origin.reading(load_model(run / ORIGINAL), labels)
        save_model(run / DENSE, specialised_head(reading, split_images(chosen, "train")))
        record = {
            "dataset": asdict(chosen.settings),
            "images": chosen.describe(),
            "recipe": asdict(recipe),
            "initial_weights": f"the dense model of {origin.run} for these labels",
            "epochs": [],
            "stopped_early": False,
            "epoch_of_weights": 0,
            "specialised_from": asdict(origin),
        }
        write_json(run / TRAINING, record)

    settings = {"origin": asdict(origin), "chosen": asdict(chosen.settings), "recipe": asdict(recipe)}
    return chosen, carry_out(run, SPECIALISE_STAGE, settings, produce)


def check_pruned(run: Path) -> None:
    """That the run's pruned model lost no more than it might.

    With `other` even a model with all its units may: its row of `other` is a fit.

    Raises:
        SpecialisationError: it lost more.
        RunError: the run has no pruned model.
    """
    record = pruning_record(run)
    chosen = next(candidate for candidate in record["candidates"] if candidate.get("chosen"))
    if chosen.get("passes"):
        return
    allowed, dense = 100 * record.get("max_drop", 0.0), 100 * record["dense_validation_accuracy"]
    whole = 100 * chosen.get("validation_accuracy", 0.0)
    raise SpecialisationError(
        f"expected a model at most {allowed:g} points below the {dense:.2f} % that {run.resolve().name}'s original has "
        f"among these labels, found none: with all its units it has {whole:.2f} % "
        f"({PRUNING}). Allow more (--max-drop), or fine-tune for longer (--set prune.epochs=N)."
    )
