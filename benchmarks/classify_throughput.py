"""Throughput of a bundle's pruned model over the dense one it was made from, on ONNX Runtime, in one run.

The bundle's own classify.onnx, which is checked against its golden set first, against a dense model of the sizes that
its manifest states. The dense one has random weights: no operation here depends on values. Rounds are interleaved
(dense, pruned, dense, ...), so that a slow moment of the machine meets both; the figure is the median over the
rounds of the ratio, with its quartiles.

    python benchmarks/classify_throughput.py models/digits/1 [--batch 64] [--rounds 60] [--threads 2] [--json]
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from headwise.bundle import read_manifest
from headwise.graphs import CLASSIFY_GRAPH
from headwise.v1.bundle_pb2 import Bundle
from headwise_exporter.bench.timing import interleaved_seconds
from headwise_exporter.engines import ONNXRUNTIME
from headwise_exporter.export.bundle import verify
from headwise_exporter.export.speed import random_dense_model, write_dense_graph
from headwise_exporter.machine import machine
from rich.console import Console
from rich.table import Table
from timing import quartiles, runner, show_quartiles


def measure(bundle: Path, manifest: Bundle, batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """Images a second of both models, and the ratio with its quartiles."""
    shape = (batch, manifest.input.height, manifest.input.width, manifest.input.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / CLASSIFY_GRAPH
        write_dense_graph(manifest, random_dense_model(manifest), dense)
        runs = [runner(ONNXRUNTIME, "f32")(path, threads) for path in (dense, bundle / CLASSIFY_GRAPH)]
        times = interleaved_seconds(runs, images, rounds)
    dense_rate, pruned_rate = batch / np.median(times, axis=0)
    return {
        "macs_share": manifest.metrics.macs_pruned / manifest.metrics.macs_dense,
        "dense_images_per_second": dense_rate,
        "pruned_images_per_second": pruned_rate,
        **quartiles(times[:, 0] / times[:, 1]),
    }


def report(figures: dict[str, Any], title: str) -> Table:
    """One row."""
    table = Table(title=title)
    for column in ("dense images/s", "pruned images/s", "ratio (quartiles)", "MACs left"):
        table.add_column(column, justify="right", no_wrap=True)
    rates = (f"{figures[f'{model}_images_per_second']:,.0f}" for model in ("dense", "pruned"))
    table.add_row(*rates, show_quartiles(figures), f"{100 * figures['macs_share']:.0f} %")
    return table


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder <repository>/<name>/<version>.")],
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 60,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each session.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    if failed := [check.name for check in verify(bundle) if not check.passed]:
        raise SystemExit(f"{bundle} does not verify: {', '.join(failed)}")
    manifest = read_manifest(bundle)
    name = f"{manifest.name} version {manifest.version}"
    figures = measure(bundle, manifest, batch, rounds, threads)
    if as_json:
        settings = {"batch": batch, "rounds": rounds, "threads": threads}
        print(json.dumps({"bundle": name, "machine": machine(), **settings, **figures}, indent=2))
        return
    title = f"{name}, ONNX Runtime, batch {batch}, {threads} threads, {rounds} interleaved rounds, median"
    Console().print(report(figures, title))


if __name__ == "__main__":
    typer.run(main)
