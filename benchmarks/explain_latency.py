"""Latency of Explain over Classify, side by side, for a recipe's model with random weights.

Each runtime runs the graphs in turn, in random order; the figure is the median over the rounds of the latencies and of
their ratios to Classify's. With --targets also of maps.onnx, for so many labels of each image. On a machine that does
other work as well, --processor-time with one thread counts what the processor did for a run, not how long it waited.

    python benchmarks/explain_latency.py [--recipe cct_7_3x1] [--rounds 100] [--threads 2] [--targets 3] [--json]
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from headwise.graphs import CLASSIFY_GRAPH, EXPLAIN_GRAPH, MAPS_GRAPH
from headwise_exporter.bench.sessions import Run
from headwise_exporter.bench.timing import Timed, interleaved_seconds
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.graphs import export_graphs
from headwise_exporter.export.silencing import SilencedHeads
from headwise_exporter.machine import machine
from headwise_exporter.model.anatomy import HEADS
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.nodes.snp import Probe
from headwise_exporter.recipes import RECIPES
from models import NORMALISATION, RecipeOption, model_config
from rich.console import Console
from rich.table import Table
from timing import quartiles, runners, show_quartiles

BATCHES = (1, 8)


def random_split(config: CCTConfig) -> ExactSplit:
    """The split of a model with random weights and probes."""
    model = CCT(config).eval()
    probes = [Probe(tap.nodes, config.labels) for tap in model.tap_points() if tap.kind == HEADS]
    mean, std = ((value,) * config.channels for value in NORMALISATION)
    return ExactSplit(model, probes, mean, std).eval()


def silenced_heads(split: ExactSplit) -> SilencedHeads:
    """With means of zero, which no operation that is timed depends on."""
    taps = [tap for tap in split.model.tap_points() if tap.kind == HEADS]
    means = {tap.encoder: torch.zeros(tap.nodes) for tap in taps if tap.encoder is not None}
    return SilencedHeads(split.normalise, split.model, means).eval()


def mapped(run: Run, targets: int) -> Timed:
    """A run of maps.onnx for the first labels of each image."""
    ranks = -1 - np.arange(targets)
    return lambda images: run(images, targets=np.tile(ranks, (len(images), 1)))


def measure(
    config: CCTConfig, rounds: int, threads: int, targets: int = 0, clock: Callable[[], float] = time.perf_counter
) -> list[dict[str, Any]]:
    """A row for each runtime and batch.

    Args:
        targets: of maps.onnx; 0 leaves it out.
    """
    torch.manual_seed(0)
    rows, split = [], random_split(config)
    with tempfile.TemporaryDirectory() as folder:
        export_graphs(split, silenced_heads(split), Path(folder))
        for name, runner in runners().items():
            runs: list[Timed] = [runner(Path(folder) / graph, threads) for graph in (CLASSIFY_GRAPH, EXPLAIN_GRAPH)]
            if targets:
                runs.append(mapped(runner(Path(folder) / MAPS_GRAPH, threads), targets))
            for batch in BATCHES:
                shape = (batch, config.image_size, config.image_size, config.channels)
                images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
                times = interleaved_seconds(runs, images, rounds, clock)
                classify, explain, *maps = 1e3 * np.median(times, axis=0)
                medians = {"classify_ms": classify, "explain_ms": explain}
                row = {"runtime": name, "batch": batch, **medians, **quartiles(times[:, 1] / times[:, 0])}
                if maps:
                    row["maps"] = {"maps_ms": maps[0], **quartiles(times[:, 2] / times[:, 0])}
                rows.append(row)
    return rows


def report(rows: list[dict[str, Any]], title: str) -> Table:
    """A row for each runtime and batch."""
    table = Table(title=title)
    of_maps = ("maps ms", "ratio (quartiles)") if any("maps" in row for row in rows) else ()
    for column in ("runtime", "batch", "Classify ms", "Explain ms", "ratio (quartiles)", *of_maps):
        table.add_column(column, justify="left" if column == "runtime" else "right", no_wrap=True)
    for row in rows:
        latencies = (f"{row[name]:.2f}" for name in ("classify_ms", "explain_ms"))
        maps = [f"{row['maps']['maps_ms']:.2f}", show_quartiles(row["maps"])] if "maps" in row else []
        table.add_row(row["runtime"], str(row["batch"]), *latencies, show_quartiles(row), *maps)
    return table


def main(
    recipe: RecipeOption = "cct_7_3x1",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each runtime.")] = 2,
    targets: Annotated[int, typer.Option(min=0, help="Labels of each image to map; 0 for no maps.")] = 0,
    processor_time: Annotated[bool, typer.Option(help="Time of the processor in place of wall time.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    clock = time.process_time if processor_time else time.perf_counter
    rows = measure(model_config(RECIPES[recipe]()), rounds, threads, targets, clock)
    if as_json:
        settings: dict[str, Any] = {"recipe": recipe, "rounds": rounds, "threads": threads}
        if targets:
            settings |= {"targets": targets, "clock": "processor" if processor_time else "wall"}
        print(json.dumps({"machine": machine(), **settings, "rows": rows}, indent=2))
        return
    Console().print(report(rows, f"{recipe}, {rounds} interleaved rounds, {threads} threads, median"))


if __name__ == "__main__":
    typer.run(main)
