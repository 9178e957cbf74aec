"""Latency of Classify by engine and precision on a bundle with int8 graphs, opened as the server opens them.

All sessions run in turn on the same images; the figures are the median over the rounds of each latency, and of its
ratio to ONNX Runtime in float32. One stream; its threads are the cores that the process may use. A precision that does
not run here, or that the bundle has no graph for, is left out and named.

    taskset -c 0 python benchmarks/int8_latency.py models/cifar100/1 [--rounds 60] [--json]
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from headwise.bundle import accepted_variants, read_golden_set, read_manifest
from headwise.graphs import CLASSIFY_GRAPH
from headwise_exporter.bench.timing import interleaved_seconds
from headwise_exporter.machine import machine
from headwise_server.engines import EngineError, Precision, Session, create
from rich.console import Console
from rich.table import Table
from timing import quartiles, show_quartiles

ENGINES = ("onnxruntime", "openvino")
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "int8")
BATCHES = (1, 8)


def sessions(bundle: Path) -> tuple[dict[tuple[str, Precision], Session], list[str]]:
    """A session for each engine and precision, ONNX Runtime in float32 first, and those that are left out."""
    opened, left_out = dict[tuple[str, Precision], Session](), list[str]()
    variants = {
        (variant.engine, variant.precision): variant.path for variant in accepted_variants(read_manifest(bundle))
    }
    for name in ENGINES:
        engine = create(name)
        for precision in PRECISIONS:
            graph = variants.get((name, precision), None if precision == "int8" else CLASSIFY_GRAPH)
            try:
                if graph is None:
                    raise EngineError("no accepted graph")
                with tempfile.TemporaryDirectory() as cache:
                    opened[name, precision] = engine.open_session(bundle / graph, precision, 1, Path(cache))
            except EngineError:
                left_out.append(f"{name} {precision}")
    return opened, left_out


def measure(bundle: Path, rounds: int) -> dict[str, Any]:
    """A row for each session and batch."""
    opened, left_out = sessions(bundle)
    golden, rows = read_golden_set(bundle), []
    for batch in BATCHES:
        images_NYXC = np.resize(golden["images"], (batch, *golden["images"].shape[1:]))
        times = interleaved_seconds([session.run for session in opened.values()], images_NYXC, rounds)
        for index, (engine, precision) in enumerate(opened):
            rows.append(
                {
                    "engine": engine,
                    "precision": precision,
                    "batch": batch,
                    "ms": 1e3 * float(np.median(times[:, index])),
                    **quartiles(times[:, 0] / times[:, index]),
                }
            )
    return {"left_out": left_out, "rows": rows}


def report(measured: dict[str, Any], title: str) -> Table:
    """A row for each session and batch."""
    table = Table(title=title)
    for column in ("engine", "precision", "batch", "ms", "times as fast (quartiles)"):
        table.add_column(column, justify="left" if column in ("engine", "precision") else "right", no_wrap=True)
    for row in measured["rows"]:
        table.add_row(row["engine"], row["precision"], str(row["batch"]), f"{row['ms']:.2f}", show_quartiles(row))
    if measured["left_out"]:
        table.caption = f"not here: {', '.join(measured['left_out'])}"
    return table


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder <repository>/<name>/<version>.")],
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    measured, manifest = measure(bundle, rounds), read_manifest(bundle)
    if as_json:
        model = {"name": manifest.name, "macs": manifest.metrics.macs_pruned}
        print(json.dumps({"machine": machine(), **model, "rounds": rounds, **measured}, indent=2))
        return
    Console().print(report(measured, f"{manifest.name}, {rounds} interleaved rounds, over ONNX Runtime in float32"))


if __name__ == "__main__":
    typer.run(main)
