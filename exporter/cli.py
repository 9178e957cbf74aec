"""The command `exporter`: `build` runs the whole chain, the others one stage of it."""

import json
import re
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from headwise.bundle import MANIFEST, BundleError, file_sha256, read_manifest
from PIL import Image

from exporter import console, datasets
from exporter.andc import RULES
from exporter.bundle import verify as verify_bundle
from exporter.bundle import write_bundle
from exporter.checkpoints import CheckpointError
from exporter.compaction import Budget
from exporter.criteria import CRITERIA
from exporter.datasets import DatasetError, PartName
from exporter.files import OutputError, check_writable, write_json
from exporter.onnx_export import ExportError
from exporter.pipeline import (
    COMPACT,
    COMPACT_MEASUREMENTS,
    DENSE,
    DENSE_MEASUREMENTS,
    MASKED,
    PRUNING,
    TRAINING,
    RunError,
    measure_stage,
    prune_stage,
    train_stage,
    trained_dataset,
)
from exporter.pruning import AUTO, PruningError
from exporter.recipes import RECIPES, PruneSettings, Recipe
from exporter.stages import Stage, is_current, write_stage_record
from exporter.training import TrainingError

ERRORS = (
    BundleError,
    CheckpointError,
    DatasetError,
    ExportError,
    OutputError,
    PruningError,
    RunError,
    TrainingError,
)
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
DEFAULTS = PruneSettings()
INTERRUPTED = 130  # as a shell says of a program that Ctrl-C ended


def _checked_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(f"expected letters, digits, '.', '_' and '-', found {name!r}")
    return name


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

DatasetOption = Annotated[str, typer.Option("--dataset", help=f"One of: {', '.join(datasets.DATASETS)}.")]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of the run's intermediate results.")]
OutOption = Annotated[Path, typer.Option("--out", help="Model repository to write the bundle to.")]
NameOption = Annotated[
    str | None,
    typer.Option("--name", callback=_checked_name, help="Name of the model; the data set's by default."),
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Epochs of training; the recipe's by default.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of the training; the recipe's by default.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
Bf16Option = Annotated[bool, typer.Option("--bf16", help="Train in bf16 autocast, where the processor has it.")]
RuleOption = Annotated[str, typer.Option(help=f"ANDC rule: {', '.join(RULES)}.")]
ThresholdOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="At which a field counts as recognition.")]
CriterionOption = Annotated[
    str,
    typer.Option(help=f"What chooses the units to remove: {AUTO} (the best on calibration), {', '.join(CRITERIA)}."),
]
ShareOption = Annotated[float, typer.Option(min=0.01, max=1.0, help="Share that each encoder keeps.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what can go wrong into one message and an exit status."""
    try:
        yield
    except ERRORS as error:
        console.err.print(f"[red]exporter:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.err.print("interrupted; the same command goes on where this one stopped", highlight=False)
        raise typer.Exit(INTERRUPTED) from None


def _recipe(dataset: str, epochs: int | None, seed: int | None, bf16: bool) -> Recipe:
    datasets.check_name(dataset)
    recipe = RECIPES[dataset]
    training = recipe.training
    training = replace(
        training,
        epochs=training.epochs if epochs is None else epochs,
        seed=training.seed if seed is None else seed,
        bf16=training.bf16 or bf16,
    )
    return replace(recipe, training=training)


def _prune_settings(rule: str, threshold: float, criterion: str, budget: Budget) -> PruneSettings:
    for name, value, known in (("--rule", rule, RULES), ("--criterion", criterion, (AUTO, *CRITERIA))):
        if value not in known:
            raise typer.BadParameter(f"expected one of {', '.join(known)}, found {value!r}", param_hint=name)
    matched = next(known for known in RULES if known == rule)
    return PruneSettings(rule=matched, threshold=threshold, criterion=criterion, budget=budget)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _say(stage: str, done: bool) -> None:
    if not done:
        console.err.print(f"{stage}: up to date", style="dim", highlight=False)


def _next_version(folder: Path) -> int:
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1


def _export(run: Path, out: Path, name: str | None) -> Path:
    """Export the run, unless the newest thing it was exported to under this name is what it would become again."""
    dataset = trained_dataset(run)
    name = name or dataset.name
    record = run / "export.json"
    results = (DENSE, TRAINING, MASKED, COMPACT, PRUNING, DENSE_MEASUREMENTS, COMPACT_MEASUREMENTS)
    stage = Stage("export", results, (record.name,))
    settings = {"out": str(out.resolve()), "name": name}
    if is_current(run, stage, settings):
        exported = json.loads(record.read_text("utf-8"))
        folder = Path(exported["folder"])
        if (folder / MANIFEST).is_file() and file_sha256(folder / MANIFEST) == exported["manifest_sha256"]:
            _say("export", False)
            return folder
    folder = write_bundle(run, dataset, out, name, _next_version(out / name))
    write_json(record, {"folder": str(folder.resolve()), "manifest_sha256": file_sha256(folder / MANIFEST)})
    write_stage_record(run, stage, settings)
    return folder


def _show(folder: Path, as_json: bool) -> None:
    manifest = read_manifest(folder)
    if as_json:
        print(console.manifest_json(manifest))
        return
    for table in (console.tap_point_table, console.candidate_table, console.manifest_table):
        console.out.print(table(manifest))
    console.out.print(f"bundle: {folder}", highlight=False, soft_wrap=True)


@app.command()
def build(
    dataset: DatasetOption,
    out: OutOption = Path("models"),
    run: Annotated[Path | None, typer.Option("--run", help="Folder of intermediate results; runs/<data set>.")] = None,
    name: NameOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    bf16: Bf16Option = False,
    threads: ThreadsOption = None,
    rule: RuleOption = "both",
    threshold: ThresholdOption = DEFAULTS.threshold,
    criterion: CriterionOption = AUTO,
    keep_feed_forward: ShareOption = DEFAULTS.budget.feed_forward,
    keep_heads: ShareOption = DEFAULTS.budget.heads,
    keep_query_key: ShareOption = DEFAULTS.budget.query_key,
    keep_value: ShareOption = DEFAULTS.budget.value,
    as_json: JsonOption = False,
) -> None:
    """Train, measure, prune and export: from a data set to a bundle. Goes on where an earlier build stopped."""
    with clear_errors():
        recipe = _recipe(dataset, epochs, seed, bf16)
        budget = Budget(keep_feed_forward, keep_heads, keep_query_key, keep_value)
        prune = _prune_settings(rule, threshold, criterion, budget)
        _set_threads(threads)
        run = run or Path("runs") / dataset
        check_writable(out)
        check_writable(run)
        data = datasets.load(dataset)
        console.err.print(data.describe(), highlight=False)
        _say("train", train_stage(run, recipe, data, console.progress))
        _say("measure", measure_stage(run, recipe.probes, data, console.progress))
        _say("prune", prune_stage(run, prune, recipe.probes, data, console.progress))
        _show(_export(run, out, name), as_json)


@app.command()
def train(
    dataset: DatasetOption,
    run: RunOption,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    bf16: Bf16Option = False,
    threads: ThreadsOption = None,
) -> None:
    """Train the dense model."""
    with clear_errors():
        recipe = _recipe(dataset, epochs, seed, bf16)
        _set_threads(threads)
        check_writable(run)
        data = datasets.load(dataset)
        console.err.print(data.describe(), highlight=False)
        _say("train", train_stage(run, recipe, data, console.progress))


@app.command()
def measure(run: RunOption, threads: ThreadsOption = None) -> None:
    """Train the probes of a run's dense model and measure every node."""
    with clear_errors():
        _set_threads(threads)
        data = trained_dataset(run)
        _say("measure", measure_stage(run, RECIPES[data.name].probes, data, console.progress))


@app.command()
def prune(
    run: RunOption,
    threads: ThreadsOption = None,
    rule: RuleOption = "both",
    threshold: ThresholdOption = DEFAULTS.threshold,
    criterion: CriterionOption = AUTO,
    keep_feed_forward: ShareOption = DEFAULTS.budget.feed_forward,
    keep_heads: ShareOption = DEFAULTS.budget.heads,
    keep_query_key: ShareOption = DEFAULTS.budget.query_key,
    keep_value: ShareOption = DEFAULTS.budget.value,
) -> None:
    """Mask a run's dense model by ANDC and make it compact."""
    with clear_errors():
        settings = _prune_settings(
            rule, threshold, criterion, Budget(keep_feed_forward, keep_heads, keep_query_key, keep_value)
        )
        _set_threads(threads)
        data = trained_dataset(run)
        _say("prune", prune_stage(run, settings, RECIPES[data.name].probes, data, console.progress))


@app.command()
def export(
    run: RunOption, out: OutOption = Path("models"), name: NameOption = None, as_json: JsonOption = False
) -> None:
    """Export a pruned run as a bundle: ONNX graphs, golden set, manifest."""
    with clear_errors():
        check_writable(out)
        _show(_export(run, out, name), as_json)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder <repository>/<name>/<version>.")], as_json: JsonOption = False
) -> None:
    """Check a bundle's hashes, golden set and completeness; exit status 1 if any check fails."""
    checks = verify_bundle(bundle)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        console.out.print(console.check_table(checks))
    if not all(check.passed for check in checks):
        failed = ", ".join(check.name for check in checks if not check.passed)
        console.err.print(f"[red]exporter:[/] {bundle} failed: {failed}", highlight=False, soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def samples(
    dataset: Annotated[str, typer.Argument(help=f"One of: {', '.join(datasets.DATASETS)}.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write PNG files to.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 4,
    part: Annotated[str, typer.Option(help="train, calibration or test.")] = "test",
) -> None:
    """Write images of a data set as PNG files, named <index>_<label>.png."""
    with clear_errors():
        known: tuple[PartName, ...] = ("train", "calibration", "test")
        matched = next((name for name in known if name == part), None)
        if matched is None:
            raise typer.BadParameter(f"expected train, calibration or test, found {part!r}", param_hint="--part")
        data = datasets.load(dataset)
        check_writable(out)
        chosen = data.part(matched)
        for index in range(min(count, len(chosen))):
            label = data.label_names[chosen.labels_N[index]]
            path = out / f"{chosen.source_indices_N[index]:05d}_{label}.png"
            Image.fromarray(chosen.images_NYXC[index].squeeze()).save(path)
            print(path)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point. SIGTERM stops a build as Ctrl-C does: cleanly, to be gone on with."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()
