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
from typing import Annotated

import numpy as np
import torch
import typer
from headwise.bundle import read_manifest
from headwise.v1.bundle_pb2 import Bundle
from headwise_exporter.export.bundle import verify
from headwise_exporter.export.graphs import export_graphs
from headwise_exporter.model.cct import CCT, CCTConfig, cct, count_macs, count_parameters
from headwise_exporter.nodes.snp import Probe
from rich.console import Console
from rich.table import Table
from timing import interleaved_seconds, machine, onnxruntime_runner, quartiles, show_quartiles


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
    found = (count_parameters(CCT(config)), count_macs(config))
    stated = (manifest.metrics.parameters_dense, manifest.metrics.macs_dense)
    if found != stated:
        raise ValueError(f"expected parameters and MACs {stated} as in the manifest, found {found}")
    return config


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder <repository>/<name>/<version>.")],
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 60,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each session.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    manifest = read_manifest(bundle)
    if failed := [check.name for check in verify(bundle) if not check.passed]:
        raise SystemExit(f"{bundle} does not verify: {', '.join(failed)}")
    config = dense_config(manifest)
    torch.manual_seed(0)
    shape = (batch, config.image_size, config.image_size, config.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        probes = [Probe(encoder.heads * encoder.value_dim, config.labels) for encoder in config.encoders]
        export_graphs(CCT(config).eval(), probes, manifest.input.mean, manifest.input.std, Path(folder))
        runs = [onnxruntime_runner(path / "classify.onnx", threads) for path in (Path(folder), bundle)]
        times = interleaved_seconds(runs, images, rounds)
    metrics = manifest.metrics
    dense_rate, pruned_rate = batch / np.median(times, axis=0)
    report = {
        "bundle": f"{manifest.name} version {manifest.version}",
        "machine": machine(),
        "batch": batch,
        "rounds": rounds,
        "threads": threads,
        "macs_share": metrics.macs_pruned / metrics.macs_dense,
        "dense_images_per_second": dense_rate,
        "pruned_images_per_second": pruned_rate,
        **quartiles(times[:, 0] / times[:, 1]),
    }
    if as_json:
        print(json.dumps(report, indent=2))
        return
    table = Table(
        title=f"{report['bundle']}, ONNX Runtime, batch {batch}, {threads} threads, {rounds} interleaved rounds, median"
    )
    for column in ("dense images/s", "pruned images/s", "ratio (quartiles)", "MACs left"):
        table.add_column(column, justify="right", no_wrap=True)
    rates = (f"{rate:,.0f}" for rate in (dense_rate, pruned_rate))
    table.add_row(*rates, show_quartiles(report), f"{100 * report['macs_share']:.0f} %")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
