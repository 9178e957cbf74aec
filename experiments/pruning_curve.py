"""Accuracy against measured speed along a search: every candidate of a run, in float32 and int8, on every engine here.

    exporter prune --run runs/cifar100 --mask-by none --speedup 5 --max-drop 99
    python experiments/pruning_curve.py runs/cifar100 cifar100

All graphs are timed in turn (`exporter bench`), against the dense one in float32 on ONNX Runtime. Accuracy is of
validation images, which the search chose by; the difference to that dense graph is paired, with a bootstrap interval
over the images. One training and one search: the interval has nothing of how these would come out again. Writes
results/NAME/pruning_curve.json and .svg.
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from headwise.graphs import CLASSIFY_GRAPH, OUTPUTS
from headwise_exporter.bench.sessions import Precision, Run
from headwise_exporter.bench.variants import BenchSettings, Candidate, bench
from headwise_exporter.commands import console
from headwise_exporter.commands.options import ThreadsOption
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.base import Dataset
from headwise_exporter.engines import CPU_ENGINES, ONNXRUNTIME
from headwise_exporter.export.attribution import Classify
from headwise_exporter.export.graphs import to_onnx
from headwise_exporter.export.quantization import quantize
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.export.variants import calibration_images, right_labels
from headwise_exporter.model.cct import CCT, InputNormalisation
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.model.config import count_macs
from headwise_exporter.stages.run import DENSE, trained_dataset
from headwise_exporter.stages.trials import trials_of
from headwise_exporter.studies.paired import paired
from headwise_exporter.studies.wording import percent
from numpy.typing import NDArray
from records import RESULTS, NameArgument, ResultsOption, RunArgument, write_record
from rich import box
from rich.table import Table

RECORD, PLOT = "pruning_curve.json", "pruning_curve.svg"
COLOURS = {("onnxruntime", "f32"): "C0", ("onnxruntime", "int8"): "C1", ("openvino", "f32"): "C2"} | {
    ("openvino", "int8"): "C3"
}


def write_graph(model: CCT, dataset: Dataset, path: Path) -> None:
    """The model's graph, weights and normalisation inside."""
    config = model.config
    images = torch.zeros(2, config.image_size, config.image_size, config.channels, dtype=torch.uint8)
    graph = to_onnx(
        Classify(InputNormalisation(dataset.mean, dataset.std), model), {"images": images}, OUTPUTS[CLASSIFY_GRAPH]
    )
    onnx.save_model(graph, path)


def graphs(model: CCT, dataset: Dataset, folder: Path) -> Iterator[tuple[str, Precision, Path]]:
    """Engine, precision and file of every graph of a model, ONNX Runtime's in float32 first."""
    folder.mkdir()
    plain = folder / "classify.onnx"
    write_graph(model, dataset, plain)
    for engine in CPU_ENGINES:
        yield engine, "f32", plain
    images_NYXC = calibration_images(dataset, QuantizationSettings().images)
    for engine in CPU_ENGINES:
        yield engine, "int8", quantize(plain, engine, folder, images_NYXC)


def checked(dataset: Dataset, right: dict[str, NDArray[np.bool_]], key: str) -> Callable[[Run], float]:
    """Accuracy on validation images; which of them are right is put into `right`."""

    def accuracy(run: Run) -> float:
        right[key] = right_labels(lambda images: run(images)["logits"], dataset)
        return float(right[key].mean())

    return accuracy


def measure(run: Path, dataset: Dataset, settings: BenchSettings) -> dict[str, Any]:
    """A row for each graph, the baseline first."""
    tried = trials_of(run)
    models = {"dense": load_model(run / DENSE)} | {
        f"{number}. {candidate.steps[-1]}": candidate.model for number, candidate in enumerate(tried, 1)
    }
    right: dict[str, NDArray[np.bool_]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        timed = []
        with console.progress("graphs", len(models), "models") as advance:
            for index, (name, model) in enumerate(models.items()):
                advance(0, name)
                for engine, precision, path in graphs(model, dataset, Path(temporary) / str(index)):
                    key = f"{name}/{engine}/{precision}"
                    accuracy = checked(dataset, right, key)
                    macs = count_macs(model.config)
                    timed.append(Candidate(name, path, "", engine, precision, macs, accuracy, required=True))
                advance()
        config = models["dense"].config
        timings = bench(timed, (config.image_size, config.image_size, config.channels), settings, console.progress)
    baseline_N = torch.from_numpy(right[f"dense/{ONNXRUNTIME}/f32"])
    rows = []
    for variant in timings.variants:
        compared = paired(torch.from_numpy(right[f"{variant.model}/{variant.engine}/{variant.precision}"]), baseline_N)
        rows.append(
            {
                "model": variant.model,
                "engine": variant.engine,
                "precision": variant.precision,
                "macs": variant.macs,
                "size_bytes": variant.size_bytes,
                "accuracy": compared.accuracy,
                "difference": compared.difference,
                "difference_low": compared.low,
                "difference_high": compared.high,
                "timings": [
                    {
                        "batch": timing.batch,
                        "rounds": timing.rounds,
                        "seconds": timing.seconds,
                        "speedup": timing.speedup,
                        "speedup_low": timing.speedup_interval.low,
                        "speedup_high": timing.speedup_interval.high,
                    }
                    for timing in variant.timings
                ],
            }
        )
    return {
        "images": len(baseline_N),
        "threads": settings.threads[0],
        "waiting_share": timings.waiting_share,
        "rows": rows,
    }


def table(record: dict[str, Any]) -> Table:
    """A line for each graph."""
    batches = [timing["batch"] for timing in record["rows"][0]["timings"]]
    headings = [f"times as fast, batch {batch}" for batch in batches]
    shown = Table("model", "engine", "million MACs", "accuracy %", "points to dense (95 %)", *headings, box=box.SIMPLE)
    for row in record["rows"]:
        points = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
        shown.add_row(
            row["model"],
            f"{row['engine']} {row['precision']}",
            f"{row['macs'] / 1e6:.1f}",
            percent(row["accuracy"]),
            "{:+.2f} ({:+.2f} to {:+.2f})".format(*points),
            *(f"{timing['speedup']:.2f}" for timing in row["timings"]),
        )
    return shown


def plot(record: dict[str, Any], path: Path) -> None:
    """A panel for each batch size, a line for each engine and precision from the dense model on."""
    from matplotlib import pyplot

    batches = [timing["batch"] for timing in record["rows"][0]["timings"]]
    figure, panels = pyplot.subplots(
        1, len(batches), figsize=(4.5 * len(batches), 4), sharey=True, layout="constrained"
    )

    def kind(row: dict[str, Any]) -> tuple[str, str]:
        return row["engine"], row["precision"]

    for index, (axes, batch) in enumerate(zip(np.atleast_1d(panels), batches, strict=True)):
        axes.axhline(0, color="0.8", linewidth=1)
        axes.axhline(-0.5, color="0.8", linewidth=1, linestyle="--")
        for name, rows in groupby(sorted(record["rows"], key=kind), kind):
            points = [(row["timings"][index]["speedup"], 100 * row["difference"]) for row in rows]
            axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], markersize=4, label=" ".join(name))
        axes.set_title(f"batch {batch}", fontsize=10)
        axes.set_xlabel("times as fast as dense, ONNX Runtime f32")
        axes.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(panels)[0].set_ylabel("validation accuracy, points to dense")
    np.atleast_1d(panels)[0].legend(fontsize=8, frameon=False)
    figure.savefig(path)
    pyplot.close(figure)


def main(
    run: RunArgument,
    name: NameArgument,
    seconds: Annotated[float, typer.Option(min=1, help="Of timing, for each batch size.")] = 120.0,
    threads: ThreadsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Measure, record and draw."""
    set_threads(threads)
    dataset = trained_dataset(run, console.progress)
    record = measure(run, dataset, BenchSettings(batches=(1, 8), threads=(1,), seconds=seconds))
    write_record(results / name / RECORD, record)
    plot(record, results / name / PLOT)
    console.out.print(table(record))


if __name__ == "__main__":
    typer.run(main)
