"""The figures over all nodes of a tap point, and how sure they are.

N_c clusters a node, C_s their mean size, n noise a node (definitions: `nodes.snp`), over the nodes with a cluster
and over all nodes; and two signal-to-noise ratios [our choice; the paper's formula is not public]: mean signal over
mean noise of the Boolean matrices, and N_c C_s / n.

The ratio without a threshold [our choice] takes the mean of signal and of noise over all thresholds from 0 to 1, which
is each field over its node's largest where it is positive, and divides then. Where labels say nothing ratios are 1.

Intervals [our choice] are figure +- 1.96 standard deviations of a bootstrap: each label's images are drawn again with
replacement, as many as it has, and everything after the pooled values is computed again. They are intervals for what
other images, as many of each label, would give on average: label means of fewer images scatter more, and noise rises
with scatter, so the figures depend on how many there are, and data sets are comparable at equal numbers alone.
Intervals from the draws' quantiles lie beside their figure for the same reason (`experiments/interval_coverage.py` says
how often each covers). `bias` is the mean of the draws minus the figure. Probes and model stay as they are, so what
another training would give is not in them.

Shape suffixes: as in `nodes.snp`.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from headwise_exporter.nodes.snp import THRESHOLD, NodeMeasurement, NodeStatistics, PooledNodes, statistics

THRESHOLDS = tuple(tenths / 10 for tenths in range(1, 10))
DEVIATIONS = 1.96  # of a normal distribution, around its mean: 95 %
ANY_THRESHOLD = "snr_any_threshold"


@dataclass(frozen=True)
class Summary:
    """Of one tap point at one threshold; ratios are None where nothing is noise."""

    clusters_per_node: float  # over the nodes with a cluster, as the next two
    cluster_size: float
    noise_per_node: float
    clusters_per_node_all: float  # over all nodes, those without a cluster counting zero
    cluster_size_all: float
    noise_per_node_all: float
    nodes_without_cluster: int
    signal: float
    noise: float
    snr: float | None
    cluster_noise_ratio: float | None


def _mean(values_N: Tensor, chosen_N: Tensor) -> float:
    return float(values_N[chosen_N].double().mean()) if chosen_N.any() else 0.0


def summarise(statistics: NodeStatistics) -> Summary:
    """The figures over all nodes."""
    has_N = statistics.has_cluster_N
    clusters, size, noise = (
        _mean(values_N, has_N) for values_N in (statistics.clusters_N, statistics.cluster_size_N, statistics.noise_N)
    )
    with_cluster = float(has_N.double().mean())
    mean_signal, mean_noise = statistics.signal_and_noise()
    return Summary(
        clusters_per_node=clusters,
        cluster_size=size,
        noise_per_node=noise,
        clusters_per_node_all=clusters * with_cluster,
        cluster_size_all=size * with_cluster,
        noise_per_node_all=noise * with_cluster,
        nodes_without_cluster=int((~has_N).sum()),
        signal=mean_signal,
        noise=mean_noise,
        snr=mean_signal / mean_noise if mean_noise else None,
        cluster_noise_ratio=clusters * size / noise if noise else None,
    )


def sweep(measurement: NodeMeasurement) -> dict[float, Summary]:
    """The figures at every threshold of `THRESHOLDS`."""
    return {threshold: summarise(statistics(measurement, threshold)) for threshold in THRESHOLDS}


def ratios(measurement: NodeMeasurement) -> dict[str, float | None]:
    """The signal-to-noise ratio without a threshold, and at each of `THRESHOLDS`, by name; None where nothing is noise.

    At a threshold it is that of `Summary`, without finding clusters.
    """
    matrices_NKK = measurement.matrices()
    labels = matrices_NKK.shape[1]
    maxima_N11 = matrices_NKK.amax((1, 2), keepdim=True)
    relative_NKK = matrices_NKK.div_(torch.where(maxima_N11 > 0, maxima_N11, torch.inf)).clamp_(min=0.0)
    diagonal_NK = relative_NKK.diagonal(dim1=1, dim2=2)

    def ratio(signal: float, everything: float) -> float | None:
        noise = (everything - signal) / (labels - 1)
        return signal / noise if noise else None

    named = {ANY_THRESHOLD: ratio(float(diagonal_NK.sum()), float(relative_NKK.sum()))}
    for threshold in THRESHOLDS:
        above = (float(torch.count_nonzero(values > threshold)) for values in (diagonal_NK, relative_NKK))
        named[f"snr_{threshold}"] = ratio(*above)
    return named


@dataclass(frozen=True)
class Uncertainty:
    """Of one figure, by the bootstrap."""

    low: float  # 95 %
    high: float
    bias: float


def draw_images(labels_P: Tensor, generator: torch.Generator) -> Tensor:
    """Indices (P,) of as many images of each label as there are, drawn with replacement."""
    order_P = labels_P.argsort(stable=True)
    counts_K = torch.bincount(labels_P)
    sizes_P = counts_K[labels_P[order_P]]
    starts_P = (counts_K.cumsum(0) - counts_K)[labels_P[order_P]]
    within_P = (torch.rand(len(labels_P), generator=generator, dtype=torch.float64) * sizes_P).long()
    return order_P[starts_P + within_P]


def bootstrap(
    pooled: PooledNodes, threshold: float = THRESHOLD, draws: int = 100, seed: int = 0
) -> dict[str, Uncertainty]:
    """Uncertainty of every figure of the tap point, and of its `ratios`, that has a value in all draws."""
    generator = torch.Generator().manual_seed(seed)

    def figures(measurement: NodeMeasurement) -> dict[str, float | None]:
        return asdict(summarise(statistics(measurement, threshold))) | ratios(measurement)

    rows = [figures(pooled.chosen(draw_images(pooled.labels_P, generator)).measurement()) for _ in range(draws)]
    uncertainties = {}
    for name, value in figures(pooled.measurement()).items():
        drawn = [row[name] for row in rows]
        known = torch.tensor([each for each in drawn if each is not None], dtype=torch.float64)
        if value is not None and len(known) == draws:
            spread = DEVIATIONS * float(known.std(correction=min(1, draws - 1)))
            uncertainties[name] = Uncertainty(value - spread, value + spread, float(known.mean()) - value)
    return uncertainties
