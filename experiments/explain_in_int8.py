"""Do the parts of Explain still add up, and rank alike, in int8?

    exporter build --dataset cifar100 --run runs/cifar100
    python experiments/explain_in_int8.py runs/cifar100 models/cifar100/1 cifar100

explain.onnx is quantised as classify.onnx is, for ONNX Runtime, and run on validation images. Of each image and its
predicted label (that of float32): what the sum of the parts misses the logit by, and Spearman's rank correlation of the
heads' contributions with those in float32. Writes results/NAME/explain_in_int8.json.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from headwise.bundle import read_manifest
from headwise.graphs import EXPLAIN_GRAPH, completeness_residuals
from headwise_exporter.commands import console
from headwise_exporter.engines import ONNXRUNTIME
from headwise_exporter.export.graphs import run_graph
from headwise_exporter.export.quantization import onnx_runtime_options, quantize
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.export.variants import calibration_images
from headwise_exporter.stages.run import trained_dataset
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from records import RESULTS, MeasuredRunArgument, NameArgument, ResultsOption, write_record
from scipy.stats import spearmanr

EXPLAIN_IN_INT8 = "explain_in_int8.json"
BATCH = 50

Outputs = dict[str, NDArray[Any]]


def of_predicted(outputs: Outputs, label_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Contribution of each head to one label of each image (N, R)."""
    heads_NR: NDArray[np.float64] = np.take_along_axis(outputs["heads"], label_N[:, None, None], 2)[..., 0]
    return heads_NR


def compare(plain: Outputs, int8: Outputs) -> dict[str, NDArray[Any]]:
    """Figures of each image, by name (N,)."""
    label_N = plain["logits"].argmax(1)
    heads = of_predicted(plain, label_N), of_predicted(int8, label_N)
    return {
        "residual_float": completeness_residuals(plain),
        "residual_int8": completeness_residuals(int8),
        "rank_correlation": np.array([spearmanr(*pair).statistic for pair in zip(*heads, strict=True)]),
        "first_head_stays": heads[0].argmax(1) == heads[1].argmax(1),
    }


def main(
    run: MeasuredRunArgument,
    bundle: Annotated[Path, typer.Argument(help="Bundle of the run.")],
    name: NameArgument,
    images: Annotated[int, typer.Option(min=1, help="Validation images.")] = 1000,
    results: ResultsOption = RESULTS,
) -> None:
    """Quantise, run, compare and record."""
    data = trained_dataset(run, console.progress)
    validation_NYXC = data.validation.images_NYXC[:images]
    figures_of: list[dict[str, NDArray[Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        calibration = calibration_images(data, QuantizationSettings.images)
        graph = quantize(bundle / EXPLAIN_GRAPH, ONNXRUNTIME, Path(folder), calibration)
        session = InferenceSession(graph, onnx_runtime_options(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        with console.progress("explain", len(validation_NYXC), "images") as advance:
            for first in range(0, len(validation_NYXC), BATCH):
                batch = validation_NYXC[first : first + BATCH]
                int8 = dict(zip(names, session.run(names, {"images": batch}), strict=True))
                figures_of.append(compare(run_graph(bundle / EXPLAIN_GRAPH, batch), int8))
                advance(len(batch))
    figures = {key: np.concatenate([part[key] for part in figures_of]) for key in figures_of[0]}
    record = {
        "split": "validation",
        "images": len(validation_NYXC),
        "tolerance": read_manifest(bundle).completeness_tolerance,
        "largest_residual_float": float(figures["residual_float"].max()),
        "median_residual_int8": float(np.median(figures["residual_int8"])),
        "largest_residual_int8": float(figures["residual_int8"].max()),
        "median_rank_correlation": float(np.median(figures["rank_correlation"])),
        "lowest_tenth_rank_correlation": float(np.quantile(figures["rank_correlation"], 0.1)),
        "first_head_stays": float(figures["first_head_stays"].mean()),
    }
    console.out.print_json(data=record)
    write_record(results / name / EXPLAIN_IN_INT8, record)


if __name__ == "__main__":
    typer.run(main)
