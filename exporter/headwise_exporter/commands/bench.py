"""`exporter bench`: how fast a bundle's graphs are on this machine.

Imports what it does when it runs (`commands.app`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import json_format
from headwise.v1.bundle_pb2 import Bench
from rich import box
from rich.markup import escape
from rich.table import Table

from headwise_exporter.commands import console
from headwise_exporter.commands.options import JsonOption
from headwise_exporter.commands.shared import clear_errors

PLOTS = (".svg", ".png")
PNG_DOTS_PER_INCH = 150


def _checked_plot(path: Path | None) -> Path | None:
    if path is not None and path.suffix not in PLOTS:
        raise typer.BadParameter(f"expected a name that ends in {' or '.join(PLOTS)}, found {path.name!r}")
    return path


def _table(title: str, columns: Sequence[str], left: int) -> Table:
    """An empty table, its first columns flush left, the others right."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    return table


def bench_tables(bench: Bench) -> list[Table]:
    """A table for each number of threads, and one of what each variant takes."""
    from headwise_exporter.studies import speed

    tables = []
    for threads in speed.thread_counts(bench):
        title = f"{threads} thread{'s' if threads > 1 else ''}; rounds by {speed.rounds(bench, threads)}"
        tables.append(_table(title, speed.TIMING_COLUMNS, 2))
        for rows in speed.timing_rows(bench, threads):
            for number, row in enumerate(rows):
                tables[-1].add_row(*row, end_section=number == len(rows) - 1)
    tables.append(_table("Validation accuracy, and what each takes", speed.VARIANT_COLUMNS, 1))
    for variant in bench.variants:
        tables[-1].add_row(*speed.variant_row(variant))
    return tables


def _show(name: str, bench: Bench) -> None:
    from headwise_exporter.studies import speed

    console.out.print(f"{name} on {speed.machine_words(bench)}", highlight=False, markup=False)
    for table in bench_tables(bench):
        console.out.print(table)
    console.out.print(f"fastest matrix products: {'; '.join(speed.peak_words(bench))}", highlight=False)
    for remark in speed.remarks(bench):
        console.out.print(f"[yellow]note:[/] {remark}", highlight=False)
    for reason in bench.left_out:
        console.out.print(f"left out: {escape(reason)}", highlight=False)


def _draw(bench: Bench, path: Path) -> None:
    from headwise_exporter.files import atomic_write
    from headwise_exporter.studies import plots, speed
    from headwise_exporter.studies.drawing import save

    drawn = plots.accuracy_by_latency(bench, speed.thread_counts(bench)[0])
    with atomic_write(path) as temporary:
        save(drawn, temporary, format=path.suffix[1:], dpi=PNG_DOTS_PER_INCH)


def bench(
    bundle: Annotated[Path, typer.Argument(help="Folder <repository>/<name>/<version>.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine", help="openvino, onnxruntime, cuda or tensorrt; may be repeated. Those that run here by default."
        ),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Images in a batch; may be repeated. 1, 8 and 32.")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, help="Of one run; may be repeated. One, and all cores, by default."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="For each batch size and number of threads; at least 9 rounds.")
    ] = 5.0,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", callback=_checked_plot, help="Draw accuracy against latency: an SVG or PNG file."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time a bundle's graphs in turn on every engine here, against the dense model on ONNX Runtime in float32.

    The bundle is left as it is; the dense model has its shape and random weights, which do not change the time.
    """
    with clear_errors():
        from headwise_exporter.bench.variants import BATCHES, BenchSettings
        from headwise_exporter.export.speed import bench_bundle
        from headwise_exporter.files import check_writable

        if plot is not None:
            check_writable(plot.absolute().parent)
        settings = BenchSettings(tuple(batch or BATCHES), tuple(threads or ()), seconds)
        result = bench_bundle(bundle, settings, tuple(engine or ()), console.progress)
        if plot is not None:
            _draw(result, plot)
        if as_json:
            values: dict[str, Any] = json_format.MessageToDict(
                result, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            print(json.dumps(values, indent=2))
            return
        _show(str(bundle), result)
