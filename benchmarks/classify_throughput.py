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
import onnx
import torch
import typer
from headwise.bundle import CLASSIFY_GRAPH, read_manifest
from headwise.v1.bundle_pb2 import Bundle
from headwise_exporter.export.attribution import OUTPUTS, Classify
from headwise_exporter.export.bundle import verify
from headwise_exporter.export.graphs import to_onnx
from headwise_exporter.machine import machine
from headwise_exporter.model.cct import CCT, InputNormalisation, count_parameters
from headwise_exporter.model.config import CCTConfig, cct, count_macs
from rich.console import Console
from rich.table import Table
from timing import interleaved_seconds, onnxruntime_runner, quartiles, show_quartiles


def dense_config(manifest: Bundle) -> CCTConfig:
    """Configuration of the dense model that the bundle was made from.

    Raises:
        ValueError: the sizes do not give the parameters and operations that the manifest states.
    """
    encoders = manifest.architecture.dense_encoders
    config = cct(
        image_size=manifest.input.height,
        channels=manifest.input.channels,
        labels=len(manifest.labels),
        depth=len(encoders),
        heads=encoders[0].heads,
        width=manifest.architecture.width,
        feed_forward=encoders[0].feed_forward,
    )
    counted = (count_parameters(CCT(config)), count_macs(config))
    stated = (manifest.metrics.parameters_dense, manifest.metrics.macs_dense)
    if counted != stated:
        raise ValueError(f"expected parameters and MACs {stated} as in the manifest, found {counted}")
    return config


def write_dense_graph(manifest: Bundle, path: Path) -> None:
    """The graph of a dense model with random weights."""
    torch.manual_seed(0)
    normalise = InputNormalisation(tuple(manifest.input.mean), tuple(manifest.input.std))
    side, channels = manifest.input.height, manifest.input.channels
    images = torch.zeros(2, side, side, channels, dtype=torch.uint8)  # as export.graphs has it
    onnx.save_model(to_onnx(Classify(normalise, CCT(dense_config(manifest))), images, OUTPUTS[:1]), path)


def measure(bundle: Path, manifest: Bundle, batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """Images a second of both models, and the ratio with its quartiles."""
    shape = (batch, manifest.input.height, manifest.input.width, manifest.input.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / CLASSIFY_GRAPH
        write_dense_graph(manifest, dense)
        runs = [onnxruntime_runner(path, threads) for path in (dense, bundle / CLASSIFY_GRAPH)]
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
