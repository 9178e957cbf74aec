"""Commands that write a finished run as a bundle, and what they show of its int8 variants.

Each imports what it does when it runs (`commands.app`).
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from headwise.bundle import read_manifest
from headwise.v1.bundle_pb2 import Bundle, Variant
from rich.table import Table
from rich.text import Text

from headwise_exporter.commands import console
from headwise_exporter.commands.options import (
    HalfOption,
    Int8ImagesOption,
    Int8MaxDropOption,
    JsonOption,
    NameOption,
    OutOption,
    PicturesOption,
    RunOption,
    SetOption,
    ThreadsOption,
)
from headwise_exporter.commands.shared import clear_errors, say, set_threads
from headwise_exporter.commands.triton import (
    HEADWISE,
    OUT,
    TRITON,
    BundleOption,
    DeviceOption,
    InstancesOption,
    LayoutOption,
    MaxBatchOption,
    check_source,
    export_triton,
)
from headwise_exporter.data.base import Dataset
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.files import check_writable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STANDARD_ERRORS = 1.96  # of a 95 % interval


def _drop(variant: Variant) -> str:
    """Points of accuracy against float32, with the 95 % interval of a difference on paired images.

    The interval is that of Agresti and Min (2005): Wald's, with half an image more in each of the four cells.
    """
    lost, won, images = variant.images_lost, variant.images_won, variant.validation_images
    middle = (won - lost) / (images + 2)
    spread = STANDARD_ERRORS * math.sqrt(((lost + won + 1) / (images + 2) - middle**2) / (images + 2))
    shown = (100 * value for value in ((won - lost) / images, middle - spread, middle + spread))
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*shown)


def variant_table(manifest: Bundle) -> Table:
    """A row for each graph in a narrower type that was made or could not be made."""
    table = Table(
        title="Narrower types on validation images, paired with float32: images that one alone labels rightly"
    )
    for column in ("engine", "accuracy %", "points (95 %)", "lost", "won", "golden", ""):
        table.add_column(column, justify="left" if column in ("engine", "") else "right", overflow="fold")
    for variant in manifest.variants:
        figures = ["-"] * 5
        if variant.validation_images:
            accuracy, golden = f"{100 * variant.validation_accuracy:.2f}", f"{variant.golden_difference:.2g}"
            figures = [accuracy, _drop(variant), str(variant.images_lost), str(variant.images_won), golden]
        verdict = Text("accepted", "green") if variant.accepted else Text(variant.reason, "yellow")
        table.add_row(f"{variant.engine} {variant.precision}", *figures, verdict)
    return table


def export_run(
    run: Path,
    data: Dataset,
    out: Path,
    name: str | None,
    quantization: QuantizationSettings,
    as_json: bool,
    tables: "Sequence[Callable[[Bundle], Table]]" = (
        console.tap_point_table,
        console.candidate_table,
        console.manifest_table,
        variant_table,
    ),
    pictures: bool | None = None,
) -> None:
    """Write the report, export the run and show what its bundle says."""
    from headwise_exporter.stages.export import export_stage
    from headwise_exporter.stages.report import report_stage

    say("report", report_stage(run, lambda: data, console.progress, pictures=pictures)[1])
    folder, done = export_stage(run, data, out, name or data.name, console.progress, quantization)
    say("export", done)
    manifest = read_manifest(folder)
    if as_json:
        print(console.manifest_json(manifest))
        return
    for table in tables if manifest.variants else tables[:-1]:
        console.out.print(table(manifest))
    console.out.print(f"bundle: {folder}", highlight=False, soft_wrap=True)


def export(
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run's intermediate results.")] = None,
    bundle: BundleOption = None,
    layout: LayoutOption = HEADWISE,
    out: Annotated[
        Path | None, typer.Option("--out", help="Repository to write to: models, or triton with --layout triton.")
    ] = None,
    name: NameOption = None,
    half: HalfOption = False,
    max_batch: MaxBatchOption = 64,
    instances: InstancesOption = 1,
    device: DeviceOption = "auto",
    pictures: PicturesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export a pruned run as a bundle: graphs, int8 graphs that pass, golden set, manifest; or a bundle for Triton."""
    check_source(layout, run, bundle)
    out = out or OUT[layout]
    with clear_errors():
        from headwise_exporter.stages.export import exported_bundle
        from headwise_exporter.stages.run import trained_dataset, trained_recipe

        if bundle is not None:
            export_triton(bundle, out, name, max_batch, instances, device, as_json)
        elif run is not None and layout == TRITON:
            export_triton(exported_bundle(run), out, name, max_batch, instances, device, as_json)
        elif run is not None:
            check_writable(out)
            quantization = trained_recipe(run).quantize
            quantization = replace(quantization, half=half or quantization.half)
            data = trained_dataset(run, console.progress)
            export_run(run, data, out, name, quantization, as_json, pictures=pictures)


def quantize(
    run: RunOption,
    out: OutOption = Path("models"),
    name: NameOption = None,
    images: Int8ImagesOption = None,
    max_drop: Int8MaxDropOption = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    pictures: PicturesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export a pruned run again, its int8 graphs by other settings; says what each graph costs.

    A bundle never changes: what this writes is the next version.
    """
    with clear_errors():
        from headwise_exporter.commands.settings import assignments
        from headwise_exporter.stages.run import trained_dataset, trained_recipe

        set_threads(threads)
        recipe = trained_recipe(run, assignments(settings, int8_images=images, int8_max_drop=max_drop))
        check_writable(out)
        data = trained_dataset(run, console.progress)
        export_run(run, data, out, name, recipe.quantize, as_json, (variant_table,), pictures)
