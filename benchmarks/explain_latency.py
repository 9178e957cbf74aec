"""Latency of Explain over Classify, side by side, for a recipe's model with random weights.

Each runtime runs both graphs in turn (classify, explain, classify, ...); the figure is the median over the rounds of
the two latencies and of their ratio.

    python benchmarks/explain_latency.py [--recipe cct_7_3x1] [--rounds 100] [--threads 2] [--json]
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from headwise.graphs import CLASSIFY_GRAPH, EXPLAIN_GRAPH
from headwise_exporter.bench.timing import interleaved_seconds
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.graphs import export_graphs
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


def measure(config: CCTConfig, rounds: int, threads: int) -> list[dict[str, Any]]:
    """A row for each runtime and batch."""
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        export_graphs(random_split(config), Path(folder))
        for name, runner in runners().items():
            runs = [runner(Path(folder) / graph, threads) for graph in (CLASSIFY_GRAPH, EXPLAIN_GRAPH)]
            for batch in BATCHES:
                shape = (batch, config.image_size, config.image_size, config.channels)
                images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
                times = interleaved_seconds(runs, images, rounds)
                classify, explain = 1e3 * np.median(times, axis=0)
                medians = {"classify_ms": classify, "explain_ms": explain}
                rows.append({"runtime": name, "batch": batch, **medians, **quartiles(times[:, 1] / times[:, 0])})
    return rows


def report(rows: list[dict[str, Any]], title: str) -> Table:
    """A row for each runtime and batch."""
    table = Table(title=title)
    for column in ("runtime", "batch", "Classify ms", "Explain ms", "ratio (quartiles)"):
        table.add_column(column, justify="left" if column == "runtime" else "right", no_wrap=True)
    for row in rows:
        latencies = (f"{row[name]:.2f}" for name in ("classify_ms", "explain_ms"))
        table.add_row(row["runtime"], str(row["batch"]), *latencies, show_quartiles(row))
    return table


def main(
    recipe: RecipeOption = "cct_7_3x1",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each runtime.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    rows = measure(model_config(RECIPES[recipe]()), rounds, threads)
    if as_json:
        settings = {"recipe": recipe, "rounds": rounds, "threads": threads}
        print(json.dumps({"machine": machine(), **settings, "rows": rows}, indent=2))
        return
    Console().print(report(rows, f"{recipe}, {rounds} interleaved rounds, {threads} threads, median"))


if __name__ == "__main__":
    typer.run(main)
