"""The figures over all nodes of a tap point, and how sure they are.

N_c clusters a node, C_s their mean size, n noise a node (definitions: `nodes.snp`), over the nodes with a cluster
and over all nodes; and two signal-to-noise ratios [our choice; the paper's formula is not public]: mean signal over
mean noise of the Boolean matrices, and N_c C_s / n.

Intervals are percentile bootstraps over images [our choice]: each label's images are drawn again with replacement, as
many as it has, and everything after the pooled values is computed again. Probes and model stay as they are, so what
another training would give is not in them.

Limit: with few images of a label a draw holds fewer different ones, its label means scatter more than those of the
sample, and noise rises with scatter: an interval then lies beside its figure. `bias` is the mean of the draws minus it.

Shape suffixes: as in `nodes.snp`.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from headwise_exporter.nodes.snp import THRESHOLD, NodeMeasurement, NodeStatistics, PooledNodes, statistics

THRESHOLDS = tuple(tenths / 10 for tenths in range(1, 10))
LEVEL = 0.95


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
    """Uncertainty of every figure of the tap point that has a value in all draws."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(draws):
        measurement = pooled.chosen(draw_images(pooled.labels_P, generator)).measurement()
        rows.append(asdict(summarise(statistics(measurement, threshold))))
    observed = asdict(summarise(statistics(pooled.measurement(), threshold)))
    tail = (1 - LEVEL) / 2
    uncertainties = {}
    for name, value in observed.items():
        if value is None or any(row[name] is None for row in rows):
            continue
        drawn = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        low, high = drawn.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        uncertainties[name] = Uncertainty(low, high, float(drawn.mean()) - value)
    return uncertainties
