"""Latency of Explain over Classify, side by side, for a CCT-7/3x1 with random weights.

Random weights cost what trained ones do: no operation here depends on values. Each runtime runs both graphs in turn
(classify, explain, classify, ...), so that a slow moment of the machine meets both; the figure is the median over the
rounds of the two latencies and of their ratio.

    python benchmarks/explain_latency.py [--rounds 60] [--threads 2] [--json]
"""

import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import openvino
import torch
import typer
from onnxruntime import InferenceSession, SessionOptions
from rich.console import Console
from rich.table import Table

from exporter.cct import CCT, cct_7_3x1
from exporter.onnx_export import export_graphs
from exporter.snp import Probe

Run = Callable[[np.ndarray], Any]
GRAPHS = ("classify", "explain")


def onnxruntime_runner(path: Path, threads: int) -> Run:
    """ONNX Runtime in float32 on the CPU."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow the other graph
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def openvino_runner(precision: str) -> Callable[[Path, int], Run]:
    """OpenVINO on the CPU at an inference precision."""

    def make(path: Path, threads: int) -> Run:
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        request = compiled.create_infer_request()
        return lambda images: request.infer([images], share_inputs=True)

    return make


RUNNERS = {
    "onnxruntime f32": onnxruntime_runner,
    "openvino f32": openvino_runner("f32"),
    "openvino bf16": openvino_runner("bf16"),
}


def seconds(run: Run, images: np.ndarray) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    run(images)
    return time.perf_counter() - started


def measure(runs: dict[str, Run], batch: int, rounds: int) -> dict[str, float]:
    """Median latencies in milliseconds, and the median and quartiles of the ratio."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    for _ in range(5):
        for run in runs.values():
            run(images)
    times = np.array([[seconds(runs[graph], images) for graph in GRAPHS] for _ in range(rounds)])
    low, ratio, high = np.percentile(times[:, 1] / times[:, 0], (25, 50, 75))
    classify, explain = 1e3 * np.median(times, axis=0)
    return {
        "classify_ms": classify,
        "explain_ms": explain,
        "ratio_of_medians": explain / classify,
        "ratio": ratio,
        "ratio_quartile_low": low,
        "ratio_quartile_high": high,
    }


def main(
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 60,
    threads: Annotated[int, typer.Option(help="Threads of each runtime.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    torch.manual_seed(0)
    model = CCT(cct_7_3x1()).eval()
    probes = [Probe(shape.heads * shape.value_dim, model.config.labels) for shape in model.config.encoders]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        export_graphs(model, probes, (0.5,) * 3, (0.25,) * 3, Path(folder))
        for name, runner in RUNNERS.items():
            runs = {graph: runner(Path(folder) / f"{graph}.onnx", threads) for graph in GRAPHS}
            rows += [{"runtime": name, "batch": batch, **measure(runs, batch, rounds)} for batch in (1, 8)]
    report = {"rounds": rounds, "threads": threads, "machine": platform.machine(), "rows": rows}
    if as_json:
        print(json.dumps(report, indent=2))
        return
    table = Table(title=f"CCT-7/3x1, {rounds} interleaved rounds, {threads} threads, median")
    for column in ("runtime", "batch", "Classify ms", "Explain ms", "ratio of medians", "ratio, quartiles"):
        table.add_column(column, justify="left" if column == "runtime" else "right")
    for row in rows:
        quartiles = f"{row['ratio']:.3f} ({row['ratio_quartile_low']:.3f}-{row['ratio_quartile_high']:.3f})"
        figures = (f"{row[key]:.2f}" for key in ("classify_ms", "explain_ms"))
        table.add_row(row["runtime"], str(row["batch"]), *figures, f"{row['ratio_of_medians']:.3f}", quartiles)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
