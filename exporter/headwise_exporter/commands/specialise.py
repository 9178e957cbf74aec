"""The command that makes a model for some labels of a run, smaller and faster than the run's own.

It imports what it does when it runs (`commands.app`).
"""

import json
from pathlib import Path
from typing import Any

import typer
from google.protobuf import json_format
from headwise.bundle import read_manifest
from headwise.v1.bundle_pb2 import Bundle
from rich.table import Table

from headwise_exporter.commands import console
from headwise_exporter.commands.export import variant_table
from headwise_exporter.commands.options import (
    ChosenLabelsOption,
    CriterionOption,
    JsonOption,
    LabelsFileOption,
    MacsOption,
    MaxDropOption,
    NameOption,
    OtherOption,
    OutOption,
    PicturesOption,
    RunArgument,
    SetOption,
    SpecialisedRunOption,
    SpeedupOption,
    ThreadsOption,
)
from headwise_exporter.commands.shared import clear_errors, say, set_threads
from headwise_exporter.files import check_writable
from headwise_exporter.studies.wording import p_value, percent, points


def _asked_labels(labels: str | None, file: Path | None) -> list[str]:
    if (labels is None) == (file is None):
        raise typer.BadParameter("expected --labels or --labels-file, one of them", param_hint="--labels")
    names = labels.split(",") if labels is not None else (file or Path()).read_text("utf-8").splitlines()
    return [name.strip() for name in names if name.strip()]


def specialisation_table(manifest: Bundle) -> Table:
    """The dense model and the specialised one among the labels of the latter."""
    made, metrics = manifest.specialisation, manifest.metrics
    table = Table(title=f"{manifest.name} version {manifest.version}: {len(manifest.labels)} labels of {made.run}")
    for column in ("model", "validation %", "test % (95 % interval)", "parameters", "MACs"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, kind, accuracy in (
        ("dense", "dense", made.dense_validation_accuracy),
        ("specialised", "pruned", made.validation_accuracy),
    ):
        interval = getattr(metrics, f"{kind}_accuracy_interval")
        table.add_row(
            name,
            percent(accuracy),
            f"{percent(getattr(metrics, f'{kind}_accuracy'))} ({percent(interval.low)}-{percent(interval.high)})",
            f"{getattr(metrics, f'parameters_{kind}'):,}",
            f"{getattr(metrics, f'macs_{kind}') / 1e6:,.2f} M",
        )
    difference = made.difference_interval
    table.caption = (
        f"{points(made.validation_accuracy - made.dense_validation_accuracy)} points "
        f"({points(difference.low)} to {points(difference.high)}, p {p_value(made.p_value)}) on "
        f"{made.validation_images:,} validation images; 1/{manifest.pruning.speedup:.2f} of the {manifest.pruning.cost}"
        f"{console.missed_goal(manifest.pruning)}"
    )
    return table


def specialisation_json(manifest: Bundle, folder: Path) -> str:
    """What the bundle was made from and what it came to, for programs."""
    whole: dict[str, Any] = json_format.MessageToDict(
        manifest, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    shown = ("name", "version", "labels", "specialisation", "metrics", "pruning", "variants")
    return json.dumps({"folder": str(folder), **{key: whole[key] for key in shown}}, indent=2)


def specialise(
    source: RunArgument,
    labels: ChosenLabelsOption = None,
    labels_file: LabelsFileOption = None,
    other: OtherOption = False,
    criterion: CriterionOption = None,
    max_drop: MaxDropOption = None,
    speedup: SpeedupOption = None,
    macs: MacsOption = None,
    run: SpecialisedRunOption = None,
    out: OutOption = Path("models"),
    name: NameOption = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    pictures: PicturesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a smaller and faster model for some labels of a trained run, and export it. Goes on where it was stopped.

    The new run's folder is one as any other, for all that other commands do.
    """
    with clear_errors():
        from headwise_exporter.commands.settings import assignments
        from headwise_exporter.stages.build import prune_stage
        from headwise_exporter.stages.export import export_stage
        from headwise_exporter.stages.measure import findings_stage, measure_stage
        from headwise_exporter.stages.report import pictures_chosen, report_stage
        from headwise_exporter.stages.run import trained_dataset, trained_recipe
        from headwise_exporter.stages.specialise import FOLDER, check_pruned, specialise_stage, specialised_name

        asked = _asked_labels(labels, labels_file)
        set_threads(threads)
        whole = trained_dataset(source, console.progress)
        short = specialised_name(asked, other=other)
        run = run or source / FOLDER / short
        data, done = specialise_stage(source, run, whole, asked, other=other)
        say("specialise", done)
        check_writable(out)
        console.err.print(data.describe(), highlight=False, markup=False, soft_wrap=True)
        pruning = {"speedup": speedup, "macs": macs, "criterion": criterion, "max_drop": max_drop}
        recipe = trained_recipe(run, assignments(settings, **pruning))
        say("measure", measure_stage(run, recipe.probes, data, console.progress))
        say("findings", findings_stage(run, recipe.findings, recipe.probes, data, console.progress))
        say("prune", prune_stage(run, recipe, data, console.progress))
        check_pruned(run)
        pictures = pictures_chosen(run, source) if pictures is None else pictures
        say("report", report_stage(run, lambda: data, console.progress, pictures=pictures)[1])
        model = name or f"{data.name}_{short}"
        folder, done = export_stage(run, data, out, model, console.progress, recipe.quantize)
        say("export", done)
        manifest = read_manifest(folder)
        if as_json:
            print(specialisation_json(manifest, folder))
        else:
            for table in (specialisation_table, variant_table) if manifest.variants else (specialisation_table,):
                console.out.print(table(manifest))
            console.out.print(f"bundle: {folder}", highlight=False, soft_wrap=True)
