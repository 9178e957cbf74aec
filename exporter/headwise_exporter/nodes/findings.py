"""What the nodes and heads of a model recognise, as plain values for a JSON file.

tap_points  for each: probe accuracy, the figures of `nodes.summary` with their intervals, those of the ratio at every
            threshold among them, all figures at every threshold, and how many nodes have 0, 1, 2 ... clusters and so
            much noise
heads       for each encoder: recognising nodes, experts, sharpness against its null, the labels of the head
            matrices, images right by each head alone and without it, agreement of two halves of the images, and
            of each further training of the probes
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from headwise_exporter.data.base import SplitName
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import HEADS, TapPoint
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.heads import (
    agreement,
    expertise,
    halves_agreement,
    head_function,
    head_matrices,
    measured_recognising_nodes,
)
from headwise_exporter.nodes.snp import (
    PooledNodes,
    ProbeSettings,
    matrix_statistics,
    pool_nodes,
    statistics,
    train_probes,
)
from headwise_exporter.nodes.summary import ANY_THRESHOLD, bootstrap, ratios, summarise, sweep
from headwise_exporter.progress import Count, uncounted
from headwise_exporter.training.evaluation import wilson_interval


@dataclass(frozen=True)
class FindingsSettings:
    """On which images nodes and heads are measured, and how the uncertainty is estimated [our choice]."""

    split: SplitName = "validation"
    draws: int = 100  # of the bootstrap
    probe_seeds: int = 1  # trainings of the probes; those after the first only say how far experts agree


def further_seeds(settings: ProbeSettings, trainings: int) -> list[ProbeSettings]:
    """Settings of the trainings of the probes after the first, each with a seed of its own."""
    return [replace(settings, seed=settings.seed + further) for further in range(1, trainings)]


def pool_heads(
    model: CCT,
    train_data: LabelledImages,
    held_out: LabelledImages,
    settings: ProbeSettings,
    on_images: Count = uncounted,
) -> dict[str, PooledNodes]:
    """The heads' nodes of held-out images, pooled by probes that are trained for it.

    `on_images` counts as in `measure_model`.
    """
    probes = train_probes(model, train_data.sample(settings.images), settings, on_images)
    pooled = pool_nodes(model, probes, held_out, on_images=on_images)
    return {tap.name: pooled[tap.name] for tap in model.tap_points() if tap.kind == HEADS}


def _tap_point(tap: TapPoint, pooled: PooledNodes, threshold: float, draws: int) -> dict[str, Any]:
    measurement = pooled.measurement()
    node_statistics = statistics(measurement, threshold)
    interval = wilson_interval(measurement.correct, measurement.images)
    uncertainties = bootstrap(pooled, threshold, draws)
    return {
        "name": tap.name,
        "kind": tap.kind,
        "encoder": tap.encoder,
        "nodes": tap.nodes,
        "probe_accuracy": measurement.accuracy(),
        "probe_accuracy_interval": [interval.low, interval.high],
        "figures": asdict(summarise(node_statistics)) | {ANY_THRESHOLD: ratios(measurement)[ANY_THRESHOLD]},
        "uncertainties": {figure: asdict(uncertainty) for figure, uncertainty in uncertainties.items()},
        "sweep": [{"threshold": at, **asdict(summary)} for at, summary in sweep(measurement).items()],
        "nodes_by_clusters": torch.bincount(node_statistics.clusters_N).tolist(),
        "nodes_by_noise": torch.bincount(node_statistics.noise_N).tolist(),
    }


def _heads(tap: TapPoint, pooled: PooledNodes, others: Sequence[PooledNodes], threshold: float) -> dict[str, Any]:
    measurement, heads = pooled.measurement(), tap.heads
    experts = expertise(statistics(measurement, threshold), heads)
    units = matrix_statistics(head_matrices(measurement, heads), threshold)
    halves = halves_agreement(pooled, heads, threshold)
    function = head_function(pooled, heads)
    seeds = [
        agreement(experts.recognising_nodes_HK, measured_recognising_nodes(other, heads, threshold)) for other in others
    ]
    tensors = {**vars(experts), **vars(function), "head_cluster_HK": units.cluster_NK}
    values = {name: value.tolist() for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return {
        "encoder": tap.encoder,
        "deals": experts.deals,
        "halves": halves and asdict(halves),
        "seeds": [asdict(seed) for seed in seeds],
        **values,
    }


def findings(
    model: CCT,
    pooled: Mapping[str, PooledNodes],
    others: Sequence[Mapping[str, PooledNodes]],
    threshold: float,
    draws: int,
    on_tap_point: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Everything, from the pooled nodes of held-out images.

    Args:
        others: the heads' nodes by other trainings of the probes.
        on_tap_point: called with the name of each tap point when it is done.

    Raises:
        ValueError: a label has no image.
    """
    taps, tap_points = model.tap_points(), []
    for tap in taps:
        tap_points.append(_tap_point(tap, pooled[tap.name], threshold, draws))
        on_tap_point(tap.name)
    return {
        "threshold": threshold,
        "draws": draws,
        "images": len(next(iter(pooled.values())).labels_P),
        "tap_points": tap_points,
        "heads": [
            _heads(tap, pooled[tap.name], [other[tap.name] for other in others], threshold)
            for tap in taps
            if tap.kind == HEADS
        ],
    }
