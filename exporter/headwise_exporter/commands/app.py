"""The command `exporter`: `build` runs the whole chain, the others one stage of it.

Each command imports what it does when it runs: torch takes seconds, and help, version and completion need none of it.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from headwise.entry import version_callback
from rich.markup import escape

from headwise_exporter.commands import console
from headwise_exporter.commands.bench import bench
from headwise_exporter.commands.demo import demonstrate
from headwise_exporter.commands.export import export, export_run, quantize
from headwise_exporter.commands.options import (
    ControlsOption,
    CriterionOption,
    DataDirOption,
    DatasetOption,
    EpochsOption,
    ImageSizeOption,
    InitOption,
    JsonOption,
    MacsOption,
    MaxDropOption,
    MeasureSplitOption,
    NameOption,
    OutOption,
    PicturesOption,
    ProtocolOption,
    PruneLayersOption,
    PruneMaskByOption,
    RecipeOption,
    RunOption,
    SeedOption,
    SetOption,
    SpeedupOption,
    SplitOption,
    TeacherLayoutOption,
    TeacherMeanOption,
    TeacherOption,
    TeacherSizeOption,
    TeacherStdOption,
    ThreadsOption,
)
from headwise_exporter.commands.shared import clear_errors, say, set_threads
from headwise_exporter.commands.specialise import specialise
from headwise_exporter.commands.study import compare, report, subsets
from headwise_exporter.data import datasets
from headwise_exporter.data.base import Dataset, DatasetSettings
from headwise_exporter.files import atomic_write, check_writable
from headwise_exporter.progress import silent

if TYPE_CHECKING:
    from headwise_exporter.recipes import Recipe
    from headwise_exporter.training.teacher_files import TeacherFile

LABEL_BYTES = 200  # in the name of a file, of which systems take 255

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.partition("\n")[0])


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version_callback("exporter"), is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _note(line: str) -> None:
    console.err.print(line, highlight=False, markup=False, soft_wrap=True)


def _ignore(line: str) -> None:
    pass


def _train(
    run: Path,
    source: DatasetSettings,
    recipe: "Recipe",
    init: str | None,
    teacher: "TeacherFile | None",
    *,
    goes_on: bool,
) -> Dataset:
    """Load the data set and train on it; under torchrun only the main process comes back.

    Args:
        goes_on: whether measuring and pruning follow.
    """
    from headwise_exporter import distributed
    from headwise_exporter.stages.build import train_stage, work_after_training

    check_writable(run)
    with distributed.process_group():
        shown, note = (console.progress, _note) if distributed.is_main() else (silent, _ignore)
        with distributed.main_first():
            data = datasets.load(source, shown)
        note(data.describe())
        for remark in data.remarks:
            note(f"note: {remark}")
        work_after = work_after_training(recipe, len(data.train)) if goes_on else 0.0
        done = train_stage(run, recipe, data, shown, init, note, work_after, teacher)
        if not distributed.is_main():
            raise typer.Exit
    say("train", done)
    return data


@app.command()
def build(
    dataset: DatasetOption,
    data_dir: DataDirOption = None,
    protocol: ProtocolOption = None,
    image_size: ImageSizeOption = None,
    out: OutOption = Path("models"),
    run: Annotated[Path | None, typer.Option("--run", help="Folder of intermediate results; runs/<data set>.")] = None,
    name: NameOption = None,
    recipe: RecipeOption = None,
    init: InitOption = None,
    teacher: TeacherOption = None,
    teacher_size: TeacherSizeOption = None,
    teacher_layout: TeacherLayoutOption = None,
    teacher_mean: TeacherMeanOption = None,
    teacher_std: TeacherStdOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    layers: PruneLayersOption = None,
    mask_by: PruneMaskByOption = None,
    criterion: CriterionOption = None,
    max_drop: MaxDropOption = None,
    speedup: SpeedupOption = None,
    macs: MacsOption = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    pictures: PicturesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train, measure, prune, export and quantise: from a data set to a bundle. Goes on where an earlier one stopped."""
    with clear_errors():
        from headwise_exporter.commands.settings import assignments, chosen_recipe, dataset_settings, teacher_file
        from headwise_exporter.stages.build import prune_stage
        from headwise_exporter.stages.measure import findings_stage, measure_stage

        pruning = {"layers": layers, "mask_by": mask_by, "criterion": criterion, "max_drop": max_drop}
        pruning |= {"speedup": speedup, "macs": macs}
        given = assignments(settings, epochs=epochs, seed=seed, **pruning)
        source, chosen = chosen_recipe(dataset_settings(dataset, data_dir, protocol, image_size), recipe, given)
        taught_by = teacher_file(teacher, teacher_size, teacher_layout, teacher_mean, teacher_std)
        set_threads(threads)
        run = run or Path("runs") / datasets.model_name(source)
        check_writable(out)
        data = _train(run, source, chosen, init, taught_by, goes_on=True)
        say("measure", measure_stage(run, chosen.probes, data, console.progress))
        say("findings", findings_stage(run, chosen.findings, chosen.probes, data, console.progress))
        say("prune", prune_stage(run, chosen, data, console.progress))
        export_run(run, data, out, name, chosen.quantize, as_json, pictures=pictures)


@app.command()
def train(
    dataset: DatasetOption,
    run: RunOption,
    data_dir: DataDirOption = None,
    protocol: ProtocolOption = None,
    image_size: ImageSizeOption = None,
    recipe: RecipeOption = None,
    init: InitOption = None,
    teacher: TeacherOption = None,
    teacher_size: TeacherSizeOption = None,
    teacher_layout: TeacherLayoutOption = None,
    teacher_mean: TeacherMeanOption = None,
    teacher_std: TeacherStdOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Train the dense model."""
    with clear_errors():
        from headwise_exporter.commands.settings import assignments, chosen_recipe, dataset_settings, teacher_file

        given = assignments(settings, epochs=epochs, seed=seed)
        source, chosen = chosen_recipe(dataset_settings(dataset, data_dir, protocol, image_size), recipe, given)
        taught_by = teacher_file(teacher, teacher_size, teacher_layout, teacher_mean, teacher_std)
        set_threads(threads)
        _train(run, source, chosen, init, taught_by, goes_on=False)


@app.command()
def evaluate(
    run: RunOption, split: SplitOption = "test", threads: ThreadsOption = None, as_json: JsonOption = False
) -> None:
    """Accuracy of a run's models on one split of its data set, with intervals."""
    with clear_errors():
        from headwise_exporter.commands.settings import split_name
        from headwise_exporter.stages.build import evaluate_run
        from headwise_exporter.stages.run import trained_dataset

        set_threads(threads)
        accuracies = evaluate_run(run, trained_dataset(run, console.progress), split_name(split), console.progress)
        if as_json:
            print(json.dumps([asdict(accuracy) for accuracy in accuracies], indent=2))
        else:
            console.out.print(console.accuracy_table(accuracies))


@app.command()
def measure(
    run: RunOption,
    threads: ThreadsOption = None,
    split: MeasureSplitOption = None,
    controls: ControlsOption = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the probes of a run's dense model and measure every node and head; all is in findings.json."""
    with clear_errors():
        from headwise_exporter.commands.settings import assignments
        from headwise_exporter.stages.measure import controls_stage, findings_stage, measure_stage
        from headwise_exporter.stages.run import run_findings, trained_dataset, trained_recipe

        set_threads(threads)
        recipe = trained_recipe(run, assignments(settings, split=split))
        data = trained_dataset(run, console.progress)
        say("measure", measure_stage(run, recipe.probes, data, console.progress))
        say("findings", findings_stage(run, recipe.findings, recipe.probes, data, console.progress))
        if controls:
            say("controls", controls_stage(run, recipe.findings, recipe.probes, data, console.progress))
        findings = run_findings(run)
        if as_json:
            print(json.dumps(findings))
        else:
            console.out.print(console.findings_table(findings), console.heads_table(findings))


for study in (compare, subsets, report, specialise):
    app.command()(study)


@app.command()
def prune(
    run: RunOption,
    layers: PruneLayersOption = None,
    mask_by: PruneMaskByOption = None,
    criterion: CriterionOption = None,
    max_drop: MaxDropOption = None,
    speedup: SpeedupOption = None,
    macs: MacsOption = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Mask a run's dense model and remove the units that it needs least."""
    with clear_errors():
        from headwise_exporter.commands.settings import assignments, warn_of_emulated_bf16
        from headwise_exporter.stages.build import prune_stage
        from headwise_exporter.stages.run import trained_dataset, trained_recipe

        set_threads(threads)
        pruning = {"layers": layers, "mask_by": mask_by, "criterion": criterion, "max_drop": max_drop}
        recipe = trained_recipe(run, assignments(settings, speedup=speedup, macs=macs, **pruning))
        warn_of_emulated_bf16(recipe)
        say("prune", prune_stage(run, recipe, trained_dataset(run, console.progress), console.progress))


for command in (export, quantize, bench):
    app.command()(command)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder <repository>/<name>/<version>.")], as_json: JsonOption = False
) -> None:
    """Check a bundle's hashes, golden set, completeness and int8 graphs; exit status 1 if any check fails."""
    from headwise_exporter.export.bundle import verify as verify_bundle

    checks = verify_bundle(bundle, console.progress)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        console.out.print(console.check_table(checks))
    if not all(check.passed for check in checks):
        failed = ", ".join(check.name for check in checks if not check.passed)
        console.err.print(f"[red]exporter:[/] {escape(str(bundle))} failed: {failed}", highlight=False, soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def recipes(as_json: JsonOption = False) -> None:
    """List the recipes: what each is for, and what it gave where it was run."""
    from headwise_exporter.recipes import RECIPES

    if as_json:
        print(json.dumps({name: asdict(make()) for name, make in RECIPES.items()}, indent=2))
    else:
        console.out.print(console.recipe_table())


@app.command()
def demo(
    out: OutOption = Path("models"),
    runs: Annotated[Path, typer.Option("--runs", help="Folder of intermediate results, samples and a log.")] = Path(
        "runs"
    ),
) -> None:
    """Build a bundle of handwritten digits, serve it, classify and explain held-out scans (4 minutes on two cores)."""
    with clear_errors():
        for folder in (out, runs):
            check_writable(folder)
        demonstrate(out, runs)


@app.command()
def samples(
    dataset: Annotated[str, typer.Argument(help=f"One of: {', '.join(datasets.NAMES)}.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write PNG files to.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 4,
    split: SplitOption = "test",
    data_dir: DataDirOption = None,
    protocol: ProtocolOption = None,
    image_size: ImageSizeOption = None,
) -> None:
    """Write images of a data set as PNG files, named <index>_<label>.png."""
    with clear_errors():
        from PIL import Image

        from headwise_exporter.commands.settings import dataset_settings, split_name

        name = split_name(split)
        settings = dataset_settings(dataset, data_dir, protocol, image_size)
        check_writable(out)
        data = datasets.load(settings, console.progress)
        chosen = data.split(name)
        for index in range(min(count, len(chosen))):
            named = data.label_names[chosen.labels_N[index]].encode()[:LABEL_BYTES].decode(errors="ignore")
            label = os.fsdecode(named.encode())  # as the system encodes names
            path = out / f"{chosen.source_indices_N[index]:05d}_{label}.png"
            with atomic_write(path) as temporary:
                Image.fromarray(chosen.images_NYXC[index].squeeze()).save(temporary, "PNG")
            print(path)
