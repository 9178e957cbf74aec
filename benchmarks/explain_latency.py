"""Latency of Explain over Classify, side by side, for a CCT-7/3x1 with random weights.

Random weights cost what trained ones do: no operation here depends on values. Each runtime runs both graphs in turn
(classify, explain, classify, ...); the figure is the median over the rounds of the two latencies and of their ratio.

    python benchmarks/explain_latency.py [--rounds 100] [--threads 2] [--json]
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from headwise_exporter.export.graphs import export_graphs
from headwise_exporter.model.cct import CCT, cct_7_3x1
from headwise_exporter.nodes.snp import Probe
from rich.console import Console
from rich.table import Table
from timing import interleaved_seconds, machine, quartiles, runners, show_quartiles

GRAPHS = ("classify", "explain")
BATCHES = (1, 8)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each runtime.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    torch.manual_seed(0)
    model = CCT(cct_7_3x1()).eval()
    probes = [Probe(shape.heads * shape.value_dim, model.config.labels) for shape in model.config.encoders]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        export_graphs(model, probes, (0.5,) * 3, (0.25,) * 3, Path(folder))
        for name, runner in runners().items():
            runs = [runner(Path(folder) / f"{graph}.onnx", threads) for graph in GRAPHS]
            for batch in BATCHES:
                images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
                times = interleaved_seconds(runs, images, rounds)
                medians = dict(zip((f"{graph}_ms" for graph in GRAPHS), 1e3 * np.median(times, axis=0), strict=True))
                rows.append({"runtime": name, "batch": batch, **medians, **quartiles(times[:, 1] / times[:, 0])})
    if as_json:
        print(json.dumps({"machine": machine(), "rounds": rounds, "threads": threads, "rows": rows}, indent=2))
        return
    table = Table(title=f"CCT-7/3x1, {rounds} interleaved rounds, {threads} threads, median")
    for column in ("runtime", "batch", "Classify ms", "Explain ms", "ratio (quartiles)"):
        table.add_column(column, justify="left" if column == "runtime" else "right", no_wrap=True)
    for row in rows:
        latencies = (f"{row[f'{graph}_ms']:.2f}" for graph in GRAPHS)
        table.add_row(row["runtime"], str(row["batch"]), *latencies, show_quartiles(row))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
