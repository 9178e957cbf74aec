"""How often do the intervals of signal-to-noise ratios have the value that they are for?

    python experiments/interval_coverage.py

Nodes are simulated: random means of each label, weights to the labels that follow them, and an image's noise, half of
it shared among all nodes; as many images of a label as the recorded data sets have. The value that many such samples
have on average is the one that intervals of `nodes.summary` are for. The value of all images there could be is another,
and beside these intervals stand those from the quantiles of the draws, which were recorded until 2026-12-01.

Shape suffixes: P images, N nodes, K labels.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import typer
from headwise_exporter.commands import console
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.nodes.snp import NodeMeasurement, PooledNodes
from headwise_exporter.nodes.summary import ANY_THRESHOLD, DEVIATIONS, draw_images, ratios
from records import RESULTS, ResultsOption, write_record
from torch import Tensor

RECORD = "interval_coverage.json"
AT_THRESHOLD = "snr_0.3"
FIGURES = (AT_THRESHOLD, ANY_THRESHOLD)
NOISE = 3.0  # deviation of an image's values from their label's mean, whose own deviation is 1
SHARED = 0.5  # of the noise's variance, that a few directions have in which all nodes vary together
DIRECTIONS = 4
TRUTH_SAMPLES = 400  # that the mean is taken over


@dataclass(frozen=True)
class Shape:
    """Of the simulated nodes."""

    labels: int
    nodes: int
    images: int  # of each label


# Digits' validation part, Flowers-102's test part, few and many images; a tenth as many nodes as a tap point has.
SHAPES = (Shape(10, 40, 36), Shape(25, 48, 20), Shape(25, 48, 60), Shape(25, 48, 100))


@dataclass(frozen=True)
class Population:
    """What images are drawn from."""

    means_KN: Tensor
    weights_KN: Tensor
    directions_DN: Tensor

    @classmethod
    def random(cls, shape: Shape) -> "Population":
        """With weights that follow the means as those of a trained probe do."""
        means_KN = torch.randn(shape.labels, shape.nodes) + 0.3
        weights_KN = 0.7 * means_KN + 0.7 * torch.randn(shape.labels, shape.nodes)
        return cls(means_KN, weights_KN, torch.randn(DIRECTIONS, shape.nodes) / DIRECTIONS**0.5)

    def sample(self, images: int) -> PooledNodes:
        """So many images of each label."""
        labels, nodes = self.means_KN.shape
        labels_P = torch.arange(labels).repeat_interleave(images)
        shared_PN = torch.randn(len(labels_P), DIRECTIONS) @ self.directions_DN
        own_PN = torch.randn(len(labels_P), nodes)
        noise_PN = NOISE * (SHARED**0.5 * shared_PN + (1 - SHARED) ** 0.5 * own_PN)
        return PooledNodes(self.means_KN[labels_P] + noise_PN, labels_P, self.weights_KN, torch.zeros(labels))

    def with_all_images(self) -> dict[str, float | None]:
        """The ratios where label means are known."""
        return ratios(NodeMeasurement(self.means_KN.double(), self.weights_KN.double(), 0, 1))


def _covered(value: float, drawn: Tensor, mean: float, all_images: float) -> Iterator[tuple[str, bool]]:
    spread = DEVIATIONS * float(drawn.std())
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
    yield "deviations_mean", abs(value - mean) <= spread
    yield "quantiles_mean", low <= mean <= high
    yield "deviations_all_images", abs(value - all_images) <= spread
    yield "quantiles_all_images", low <= all_images <= high


def coverage(shape: Shape, samples: int, draws: int, truth_samples: int = TRUTH_SAMPLES) -> list[dict[str, Any]]:
    """For each ratio how often each kind of interval has the mean of many samples, and the value of all images.

    Args:
        samples: whose intervals are tried.
        draws: of each bootstrap.
    """
    torch.manual_seed(0)
    population = Population.random(shape)
    truths = [ratios(population.sample(shape.images).measurement()) for _ in range(truth_samples)]
    endless = population.with_all_images()
    counts = {figure: dict[str, int]() for figure in FIGURES}
    for _ in range(samples):
        sample = population.sample(shape.images)
        values, generator = ratios(sample.measurement()), torch.Generator().manual_seed(0)
        drawn = [ratios(sample.chosen(draw_images(sample.labels_P, generator)).measurement()) for _ in range(draws)]
        for figure in FIGURES:
            each = torch.tensor([row[figure] for row in drawn], dtype=torch.float64)
            mean = sum(row[figure] or 0.0 for row in truths) / len(truths)
            for kind, is_in in _covered(values[figure] or 0.0, each, mean, endless[figure] or 0.0):
                counts[figure][kind] = counts[figure].get(kind, 0) + is_in
    return [
        {
            **asdict(shape),
            "figure": figure,
            "samples": samples,
            "draws": draws,
            "mean": sum(row[figure] or 0.0 for row in truths) / len(truths),
            "all_images": endless[figure],
            **{kind: count / samples for kind, count in counts[figure].items()},
        }
        for figure in FIGURES
    ]


def main(
    samples: Annotated[int, typer.Option(min=1, help="Whose intervals are tried.")] = 300,
    draws: Annotated[int, typer.Option(min=2, help="Of each bootstrap.")] = 50,
    results: ResultsOption = RESULTS,
) -> None:
    """Simulate, print and record."""
    set_threads(1)
    rows = []
    with console.progress("coverage", len(SHAPES), "shapes") as advance:
        for shape in SHAPES:
            rows += coverage(shape, samples, draws)
            advance()
    write_record(results / RECORD, {"rows": rows})
    for row in rows:
        kinds = ("deviations_mean", "quantiles_mean", "deviations_all_images", "quantiles_all_images")
        shares = ", ".join(f"{kind} {row[kind]:.2f}" for kind in kinds)
        console.out.print(
            f"{row['labels']} labels, {row['nodes']} nodes, {row['images']} images a label, {row['figure']}: {shares}"
        )


if __name__ == "__main__":
    typer.run(main)
