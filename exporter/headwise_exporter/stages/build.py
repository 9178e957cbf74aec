"""The stages of a build, each from files of the run's folder to files of the run's folder.

    train     data set                      -> dense.safetensors, training.json (and a log, `training.log`)
    measure   dense                         -> dense.measurements.safetensors
    findings  dense, its measurements       -> findings.json (`nodes.findings`)
    prune     dense, its measurements       -> masked.safetensors, pruned.safetensors, pruning.json, and the pruned
                                               model's own measurements, which Explain needs
    export    all of these, and the report  -> a bundle, under the output folder

The report, and what is tried on a finished run for its sake, is in `stages.study`.

A stage whose inputs have not changed is skipped (`stages.stage`).
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from google.protobuf import json_format
from headwise.bundle import file_sha256
from headwise.v1.bundle_pb2 import PruningProvenance

from headwise_exporter import distributed
from headwise_exporter.data import datasets
from headwise_exporter.data.base import Dataset, DatasetSettings, SplitName
from headwise_exporter.data.images import LabelledImages, labelled_images
from headwise_exporter.export.manifest import Accuracy, accuracy
from headwise_exporter.files import write_json
from headwise_exporter.model.cct import CCT, CCTConfig
from headwise_exporter.model.checkpoints import (
    Measurements,
    load_measurements,
    load_model,
    save_measurements,
    save_model,
)
from headwise_exporter.model.initial_weights import load_initial_weights, weights_path
from headwise_exporter.nodes.findings import FindingsSettings, findings
from headwise_exporter.nodes.snp import THRESHOLD, Probe, ProbeSettings, measure, pool_nodes, train_probes
from headwise_exporter.progress import Advance, Progress, silent
from headwise_exporter.pruning.compaction import KeptUnits
from headwise_exporter.pruning.criteria import CRITERIA
from headwise_exporter.pruning.prune import AUTO, RULES, provenance, prune
from headwise_exporter.recipes import Recipe, from_record, override
from headwise_exporter.stages.stage import Stage, carry_out, is_current
from headwise_exporter.training.log import training_log
from headwise_exporter.training.loop import Step, TrainingError, train

DENSE, MASKED, PRUNED = "dense.safetensors", "masked.safetensors", "pruned.safetensors"
DENSE_MEASUREMENTS, PRUNED_MEASUREMENTS = "dense.measurements.safetensors", "pruned.measurements.safetensors"
TRAINING, FINDINGS, PRUNING = "training.json", "findings.json", "pruning.json"
REPORT = "report/report.html"
PRUNING_IMAGES = 100  # training images of a label that masks and scores rest on

TRAIN_STAGE = Stage("train", (), (DENSE, TRAINING))
MEASURE_STAGE = Stage("measure", (DENSE, TRAINING), (DENSE_MEASUREMENTS,))
FINDINGS_STAGE = Stage("findings", (DENSE, TRAINING, DENSE_MEASUREMENTS), (FINDINGS,))
PRUNE_STAGE = Stage("prune", (DENSE, TRAINING, DENSE_MEASUREMENTS), (MASKED, PRUNED, PRUNING, PRUNED_MEASUREMENTS))


class RunError(Exception):
    """A run's folder lacks what a stage needs."""


def dataset_fingerprint(dataset: Dataset) -> str:
    """sha256 over all images and labels, in hexadecimal."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.validation, dataset.test):
        for image_YXC in split.images_NYXC:  # one at a time: they may be more than memory holds
            digest.update(image_YXC.tobytes())
        digest.update(split.labels_N.tobytes())
    return digest.hexdigest()


def split_images(dataset: Dataset, name: SplitName) -> LabelledImages:
    """One split, with the data set's own normalisation, for the device that there is."""
    return labelled_images(dataset.split(name), dataset.mean, dataset.std).to(distributed.training_device())


def _shown_steps(advance: Advance) -> Callable[[Step], None]:
    """Moves a bar with the steps of a training, those before a resume at once."""
    shown = 0

    def show(step: Step) -> None:
        nonlocal shown
        advance(f"loss {step.loss:.3f}, {step.images_per_second:,.0f} images/s", step.step - shown)
        shown = step.step

    return show


def _model_config(recipe: Recipe, dataset: Dataset) -> CCTConfig:
    _, side, _, channels = dataset.train.images_NYXC.shape
    return recipe.model.config(side, channels, len(dataset.label_names))


def train_stage(
    run: Path,
    recipe: Recipe,
    dataset: Dataset,
    progress: Progress,
    initial_weights: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> bool:
    """Train the dense model, resuming an interrupted training; True when there was something to do.

    Under torchrun every process trains and the main one writes.

    Args:
        initial_weights: as `model.initial_weights` takes them; random ones by default.
        say: told in one line what was taken from the initial weights.

    Raises:
        CheckpointError: the initial weights cannot be read or do not fit.
        TrainingError: the loss is not finite, or there is nothing to train and nothing to take.
        OutputError: the system refused a write.
    """
    if recipe.training.epochs == 0 and initial_weights is None:
        raise TrainingError("expected weights to start from (--init), as 0 epochs train nothing; found none.")
    config = _model_config(recipe, dataset)
    settings = {
        "dataset": dataset_fingerprint(dataset),
        "model": asdict(recipe.model),
        "training": asdict(recipe.training),
        "initial_weights": file_sha256(weights_path(initial_weights)) if initial_weights is not None else None,
    }

    def produce() -> None:
        torch.manual_seed(recipe.training.seed)
        dropout = {name: getattr(recipe.model, name) for name in ("attention_dropout", "stochastic_depth")}
        model = CCT(config, **dropout)
        if initial_weights is not None:
            say(load_initial_weights(model, initial_weights).describe())
        data, validation = (split_images(dataset, name) for name in ("train", "validation"))
        steps = recipe.training.epochs * math.ceil(len(data) / recipe.training.batch_size)
        log_of_main = training_log(run) if distributed.is_main() else nullcontext(lambda epochs: None)
        with progress("train", steps) as advance, log_of_main as log:
            result = train(
                model,
                data,
                recipe.training,
                validation=validation,
                checkpoint=run / "training.resume.pt",
                identity=json.dumps(settings),
                on_step=_shown_steps(advance),
                on_epoch=log,
            )
        if not distributed.is_main():
            return
        save_model(run / DENSE, model)
        record = {
            "dataset": asdict(dataset.settings),
            "images": dataset.describe(),
            "recipe": asdict(recipe),
            "initial_weights": initial_weights,
            "epochs": [asdict(epoch) for epoch in result.epochs],
        }
        write_json(run / TRAINING, record)

    if distributed.is_main():
        return carry_out(run, TRAIN_STAGE, settings, produce)
    if is_current(run, TRAIN_STAGE, settings):
        return False
    produce()
    return True


def run_record(path: Path, what: str, stage: str) -> dict[str, Any]:
    """A JSON file of a run's folder.

    Args:
        what: it says there is.
        stage: command that makes it.

    Raises:
        RunError: there is none.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {what}: expected {path.name}. Run `exporter {stage}` first.") from None
    return record


def training_record(run: Path) -> dict[str, Any]:
    """What `train` recorded of itself.

    Raises:
        RunError: the run has no trained model.
    """
    return run_record(run / TRAINING, "trained model", "train")


def trained_dataset(run: Path, progress: Progress = silent) -> Dataset:
    """The data set that the run's model was trained on.

    Raises:
        RunError: the run has no trained model.
        DatasetError: the data set is not where it was.
    """
    return datasets.load(DatasetSettings(**training_record(run)["dataset"]), progress)


def trained_recipe(run: Path, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe that the run's model was trained by, with other settings for what is done next (`NAME=VALUE`).

    Raises:
        RunError: the run has no trained model.
        RecipeError: it was trained by another release, or there is no such setting.
    """
    return override(from_record(training_record(run)["recipe"]), assignments)


def _probes(model: CCT, dataset: Dataset, settings: ProbeSettings, progress: Progress, title: str) -> dict[str, Probe]:
    with progress(title, settings.epochs) as advance:
        data = split_images(dataset, "train").sample(settings.images)
        return train_probes(model, data, settings, lambda epoch: advance("probes"))


def _measured(model: CCT, dataset: Dataset, settings: ProbeSettings, progress: Progress, title: str) -> Measurements:
    probes = _probes(model, dataset, settings, progress, title)
    return Measurements(probes, measure(model, probes, split_images(dataset, "validation")))


def measure_stage(run: Path, settings: ProbeSettings, dataset: Dataset, progress: Progress) -> bool:
    """Train the probes of the dense model and measure its nodes; True when there was something to do."""

    def produce() -> None:
        measurements = _measured(load_model(run / DENSE), dataset, settings, progress, "measure")
        save_measurements(run / DENSE_MEASUREMENTS, measurements)

    return carry_out(run, MEASURE_STAGE, asdict(settings), produce)


def findings_stage(
    run: Path, settings: FindingsSettings, probes: ProbeSettings, dataset: Dataset, progress: Progress
) -> bool:
    """Say what the dense model's nodes and heads know, and how sure that is; True when there was something to do.

    Raises:
        CheckpointError: the run was not measured.
    """

    def produce() -> None:
        model, measurements = load_model(run / DENSE), load_measurements(run / DENSE_MEASUREMENTS)
        data = split_images(dataset, settings.split)
        others = []
        for seed in range(1, settings.probe_seeds):
            seeded = replace(probes, seed=probes.seed + seed)
            trained = _probes(model, dataset, seeded, progress, f"probes again, seed {seeded.seed}")
            again = pool_nodes(model, trained, data)
            others.append({tap: nodes for tap, nodes in again.items() if tap.endswith(".heads")})
        pooled = pool_nodes(model, measurements.probes, data)
        with progress("findings", len(pooled)) as advance:
            found = findings(model, pooled, others, THRESHOLD, settings.draws, advance)
        write_json(run / FINDINGS, {"split": settings.split, **found})

    return carry_out(run, FINDINGS_STAGE, {"findings": asdict(settings), "probes": asdict(probes)}, produce)


def run_findings(run: Path) -> dict[str, Any]:
    """What `measure` found.

    Raises:
        RunError: the run was not measured.
    """
    return run_record(run / FINDINGS, "measured model", "measure")


def pruning_measurements(run: Path, model: CCT, dataset: Dataset) -> Measurements:
    """Nodes of the dense model measured on training images, at most `PRUNING_IMAGES` of each label.

    Masks and scores that rest on the images they are judged on look better than they are, hence not on validation
    images; and of those there may be too few of a label to tell what a node recognises.

    Raises:
        CheckpointError: the run was not measured.
    """
    probes = load_measurements(run / DENSE_MEASUREMENTS).probes
    data = split_images(dataset, "train").sample_of_each_label(PRUNING_IMAGES)
    return Measurements(probes, measure(model, probes, data))


def prune_stage(run: Path, recipe: Recipe, dataset: Dataset, progress: Progress) -> bool:
    """Mask and prune the dense model, and measure what is left; True when there was something to do."""
    settings, probes, training = recipe.prune, recipe.probes, recipe.training
    identity = {"prune": asdict(settings), "probes": asdict(probes), "training": asdict(training)}

    def produce() -> None:
        model = load_model(run / DENSE)
        steps = len(RULES) if settings.rule == AUTO else 1
        steps += len(CRITERIA) if settings.criterion == AUTO else 1
        with progress("prune", steps) as advance:
            pruned = prune(
                model,
                pruning_measurements(run, model, dataset),
                split_images(dataset, "train").sample(settings.images),
                split_images(dataset, "validation"),
                settings,
                training,
                advance,
            )
        small = pruned.chosen.model
        measurements = _measured(small, dataset, probes, progress, "measure the pruned model")
        save_model(run / MASKED, pruned.masked.model)
        save_model(run / PRUNED, small)
        save_measurements(run / PRUNED_MEASUREMENTS, measurements)
        told = json_format.MessageToDict(provenance(pruned, settings), preserving_proto_field_name=True)
        kept = [asdict(units) for units in pruned.chosen.kept]
        write_json(run / PRUNING, {"settings": identity, "provenance": told, "kept": kept})

    return carry_out(run, PRUNE_STAGE, identity, produce)


def evaluate_run(run: Path, dataset: Dataset, split: SplitName) -> list[Accuracy]:
    """Accuracy of every model that the run has.

    Raises:
        RunError: the run has no trained model.
    """
    training_record(run)  # raises where there is none
    data = split_images(dataset, split)
    files = (path for path in (run / DENSE, run / MASKED, run / PRUNED) if path.is_file())
    return [accuracy(path.stem, load_model(path), split, data) for path in files]


def pruning_record(run: Path) -> tuple[PruningProvenance, list[KeptUnits]]:
    """How the run's pruned model came about, and what it keeps.

    Raises:
        RunError: the run has no pruned model.
    """
    record = run_record(run / PRUNING, "pruned model", "prune")
    kept = [
        KeptUnits(
            tuple(units["heads"]),
            tuple(map(tuple, units["query_key"])),
            tuple(map(tuple, units["value"])),
            tuple(units["feed_forward"]),
        )
        for units in record["kept"]
    ]
    return json_format.ParseDict(record["provenance"], PruningProvenance()), kept
