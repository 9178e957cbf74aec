"""The stages of a build, each from files of the run's folder to files of the run's folder.

    train     data set                      -> dense.safetensors, training.json (and a log, `training.log`)
    prune     dense, its measurements       -> masked.safetensors, pruned.safetensors, pruning.json, and the pruned
                                               model's own measurements, which Explain needs

Between the two the dense model is measured (`stages.measure`). What is tried on a finished run is in `stages.study`,
its page in `stages.report`, the bundle in `stages.export`.

A stage whose inputs have not changed is skipped (`stages.stage`).
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from google.protobuf import json_format
from headwise.bundle import file_sha256

from headwise_exporter import distributed
from headwise_exporter.data.base import Dataset, SplitName
from headwise_exporter.data.images import split_images
from headwise_exporter.export.latency import LatencyTable, latency_cost, layers_measured, measure_table
from headwise_exporter.files import write_json
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model, save_model
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.model.initial_weights import load_initial_weights, weights_path
from headwise_exporter.nodes.measurements import load_measurements, pruning_measurements, save_measurements
from headwise_exporter.progress import Progress, silent
from headwise_exporter.pruning.provenance import provenance
from headwise_exporter.pruning.prune import fine_tunings, prune, pruning_images
from headwise_exporter.pruning.search import macs_cost
from headwise_exporter.recipes import Recipe
from headwise_exporter.stages.measure import measured
from headwise_exporter.stages.original import original_of
from headwise_exporter.stages.run import (
    DENSE,
    DENSE_MEASUREMENTS,
    MASKED,
    PRUNED,
    PRUNED_MEASUREMENTS,
    PRUNING,
    TRAINING,
    training_record,
)
from headwise_exporter.stages.stage import Stage, carry_out, is_current
from headwise_exporter.stages.start import model_config, start
from headwise_exporter.stages.teaching import teaching
from headwise_exporter.stages.trials import load_trials, remove_other_trials, save_trial, trials_identity
from headwise_exporter.training.evaluation import Accuracy, accuracy
from headwise_exporter.training.log import training_log
from headwise_exporter.training.loop import TrainingError, train
from headwise_exporter.training.messages import PROBED, TrainingMessages, end_line
from headwise_exporter.training.teacher_files import TeacherFile

TRAIN_STAGE = Stage("train", (), (DENSE, TRAINING))
PRUNE_STAGE = Stage("prune", (DENSE, TRAINING, DENSE_MEASUREMENTS), (MASKED, PRUNED, PRUNING, PRUNED_MEASUREMENTS))


def dataset_fingerprint(dataset: Dataset, progress: Progress = silent) -> str:
    """sha256 over all images and labels, in hexadecimal."""
    digest, splits = hashlib.sha256(), (dataset.train, dataset.validation, dataset.test)
    with progress("fingerprint", sum(map(len, splits)), "images") as advance:
        for split in splits:
            for image_YXC in split.images_NYXC:  # one at a time: they may be more than memory holds
                digest.update(image_YXC.tobytes())
                advance()
            digest.update(split.labels_N.tobytes())
    return digest.hexdigest()


def work_after_training(recipe: Recipe, images: int) -> float:
    """What measuring and pruning take, in images trained on; a little too much, as what is pruned is faster."""
    pruning = fine_tunings(recipe.prune) * recipe.prune.epochs * min(images, recipe.prune.images or images)
    measuring = 2 * recipe.probes.epochs * min(images, recipe.probes.images or images)
    return pruning + measuring * PROBED


def train_stage(
    run: Path,
    recipe: Recipe,
    dataset: Dataset,
    progress: Progress,
    initial_weights: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    work_after: float = 0.0,
    teacher: TeacherFile | None = None,
) -> bool:
    """Train the dense model, resuming an interrupted training; True when there was something to do.

    Under torchrun every process trains and the main one writes.

    Args:
        initial_weights: as `model.initial_weights` takes them, or `RANDOM`; the recipe's by default, if they fit.
        say: called with lines on what was taken from the initial weights, where the training goes on, how long it
            will take, and whether it stopped early.
        work_after: of the stages that the caller has follow, in images trained on; to say how long they take.
        teacher: to learn from, by the recipe's `teaching`; the labels alone by default.

    Raises:
        CheckpointError: the initial weights cannot be read or do not fit.
        TeacherError: the teacher cannot be read, does not fit the data set, or says what is no number.
        TrainingError: the loss is not finite, or there is nothing to train and nothing to take.
        OutputError: the system refused a write.
    """
    config = model_config(recipe, dataset)
    initial_weights, remark = start(recipe, config, initial_weights)
    if recipe.training.epochs == 0 and initial_weights is None:
        raise TrainingError("expected weights to start from (--init), as 0 epochs train nothing; found none.")
    fingerprint, taught = dataset_fingerprint(dataset, progress), teaching(teacher, recipe, dataset)
    settings: dict[str, Any] = {
        "dataset": fingerprint,
        "model": asdict(recipe.model),
        "training": asdict(recipe.training),
        "initial_weights": file_sha256(weights_path(initial_weights)) if initial_weights is not None else None,
    }
    if taught:  # only then: runs without a teacher are as before
        settings["teacher"] = taught.settings()

    def produce() -> None:
        torch.manual_seed(recipe.training.seed)
        dropout = {name: getattr(recipe.model, name) for name in ("attention_dropout", "stochastic_depth")}
        model = CCT(config, **dropout)
        if initial_weights is not None:
            taken = load_initial_weights(model, initial_weights)
            if recipe.training.epochs == 0 and taken.replaced:
                raise TrainingError(
                    f"expected weights for these {config.labels} labels, as 0 epochs train no classifier head; "
                    f"{initial_weights} has others. Train for some epochs."
                )
            say(taken.describe() + remark)
        elif remark:
            say(remark)
        data, validation = (split_images(dataset, name) for name in ("train", "validation"))
        views = taught.views(dataset, fingerprint, progress, say) if taught and recipe.training.epochs else None
        checkpoint = run / "training.resume.pt"
        log_of_main = training_log(run) if distributed.is_main() else nullcontext(lambda epochs: None)
        with progress("train", recipe.training.epochs * len(data), "images") as advance, log_of_main as log:
            shown = TrainingMessages(
                recipe.training,
                images=len(data),
                validation_images=len(validation),
                work_after=work_after,
                advance=advance,
                say=say,
                started_over=checkpoint.exists(),
            )
            result = train(
                model,
                data,
                recipe.training,
                teacher=views,
                validation=validation,
                checkpoint=checkpoint,
                identity=json.dumps(settings),
                on_start=shown.start,
                on_step=shown.step,
                on_epoch=log,
            )
        if line := end_line(result, recipe.training):
            say(line)
        if not distributed.is_main():
            return
        save_model(run / DENSE, model)
        record = {
            "dataset": asdict(dataset.settings),
            "images": dataset.describe(),
            "recipe": asdict(recipe),
            "initial_weights": initial_weights,
            "teacher": taught.record() if taught else None,
            "epochs": [asdict(epoch) for epoch in result.epochs],
            "stopped_early": result.stopped_early(recipe.training),
            "epoch_of_weights": result.best.epoch if result.best else len(result.epochs),
        }
        write_json(run / TRAINING, record)

    if distributed.is_main():
        return carry_out(run, TRAIN_STAGE, settings, produce)
    if is_current(run, TRAIN_STAGE, settings):
        return False
    produce()
    return True


def prune_stage(run: Path, recipe: Recipe, dataset: Dataset, progress: Progress) -> bool:
    """Mask and prune the dense model, and measure what is left; True when there was something to do."""
    settings, probes, training = recipe.prune, recipe.probes, recipe.training
    identity = {"prune": asdict(settings), "probes": asdict(probes), "training": asdict(training)}

    def measured_table(dense: CCTConfig) -> LatencyTable:
        with progress("latency of the layers", layers_measured(dense), "graphs") as advance:
            return measure_table(dense, advance)

    def produce() -> None:
        model = load_model(run / DENSE)
        trials = trials_identity(
            settings, probes=asdict(probes), training=asdict(training), dense=file_sha256(run / DENSE)
        )
        train_data, validation_data = (split_images(dataset, name) for name in ("train", "validation"))
        own_probes = load_measurements(run / DENSE_MEASUREMENTS).probes
        sample = train_data.sample(settings.images)
        with progress("prune", pruning_images(settings, sample, validation_data), "images") as advance:
            advance(0, "measuring on training images")
            pruned = prune(
                model,
                pruning_measurements(model, own_probes, train_data),
                sample,
                validation_data,
                settings,
                training,
                advance,
                cost_of=macs_cost if settings.search.macs is not None else latency_cost(measured_table),
                earlier=load_trials(run, trials),
                on_candidate=partial(save_trial, run, trials),
                original=original_of(run, validation_data),
            )
        small = pruned.chosen.model
        measurements = measured(small, dataset, probes, progress, "measure the pruned model")
        save_model(run / MASKED, pruned.masked.model)
        save_model(run / PRUNED, small)
        save_measurements(run / PRUNED_MEASUREMENTS, measurements)
        stated = json_format.MessageToDict(provenance(pruned, settings), preserving_proto_field_name=True)
        kept = asdict(pruned.chosen.kept)
        write_json(run / PRUNING, {"settings": identity, "provenance": stated, "kept": kept})
        remove_other_trials(run, trials)

    return carry_out(run, PRUNE_STAGE, identity, produce)


def evaluate_run(run: Path, dataset: Dataset, split: SplitName, progress: Progress = silent) -> list[Accuracy]:
    """Accuracy of every model that the run has.

    Raises:
        RunError: the run has no trained model.
    """
    training_record(run)  # raises where there is none
    data = split_images(dataset, split)
    files = [path for path in (run / DENSE, run / MASKED, run / PRUNED) if path.is_file()]
    with progress(f"evaluate on {split} images", len(files) * len(data), "images") as advance:
        return [accuracy(path.stem, load_model(path), split, data, advance) for path in files]
