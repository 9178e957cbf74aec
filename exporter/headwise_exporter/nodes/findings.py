"""All that was found about the nodes and heads of a model, as plain values for a JSON file.

tap_points  for each: probe accuracy, the figures of `nodes.summary` with their bootstrap, at every threshold, and
            how many nodes have 0, 1, 2 ... clusters and so much noise
heads       for each encoder: recognising nodes, experts, sharpness against its null, the labels of the head
            matrices, images right by each head alone and without it, agreement of two halves of the images, and
            of each further training of the probes
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from headwise_exporter.data.base import SplitName
from headwise_exporter.export.manifest import wilson_interval
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.heads import (
    agreement,
    expertise,
    halves_agreement,
    head_function,
    head_matrices,
    measured_recognising_nodes,
)
from headwise_exporter.nodes.snp import PooledNodes, matrix_statistics, statistics
from headwise_exporter.nodes.summary import bootstrap, summarise, sweep


@dataclass(frozen=True)
class FindingsSettings:
    """On which images figures are found, and how sure they are made [our choice]."""

    split: SplitName = "validation"
    draws: int = 100  # of the bootstrap
    probe_seeds: int = 1  # trainings of the probes; those after the first only say how far experts agree


def _tap_point(name: str, pooled: PooledNodes, threshold: float, draws: int) -> dict[str, Any]:
    measurement = pooled.measurement()
    found = statistics(measurement, threshold)
    interval = wilson_interval(measurement.correct, measurement.images)
    uncertainties = bootstrap(pooled, threshold, draws)
    return {
        "name": name,
        "nodes": len(found.clusters_N),
        "probe_accuracy": measurement.accuracy(),
        "probe_accuracy_interval": [interval.low, interval.high],
        "figures": asdict(summarise(found)),
        "uncertainties": {figure: asdict(uncertainty) for figure, uncertainty in uncertainties.items()},
        "sweep": [{"threshold": at, **asdict(summary)} for at, summary in sweep(measurement).items()],
        "nodes_by_clusters": torch.bincount(found.clusters_N).tolist(),
        "nodes_by_noise": torch.bincount(found.noise_N).tolist(),
    }


def _heads(
    encoder: int, pooled: PooledNodes, others: Sequence[PooledNodes], heads: int, threshold: float
) -> dict[str, Any]:
    measurement = pooled.measurement()
    found = expertise(statistics(measurement, threshold), heads)
    units = matrix_statistics(head_matrices(measurement, heads), threshold)
    halves = halves_agreement(pooled, heads, threshold)
    function = head_function(pooled, heads)
    seeds = [
        agreement(found.recognising_nodes_HK, measured_recognising_nodes(other, heads, threshold)) for other in others
    ]
    tensors = {**vars(found), **vars(function), "head_cluster_HK": units.cluster_NK}
    values = {name: value.tolist() for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return {
        "encoder": encoder,
        "deals": found.deals,
        "halves": halves and asdict(halves),
        "seeds": [asdict(found) for found in seeds],
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
        on_tap_point: told the name of each tap point when it is done.

    Raises:
        ValueError: a label has no image.
    """
    tap_points = []
    for name, nodes in pooled.items():
        tap_points.append(_tap_point(name, nodes, threshold, draws))
        on_tap_point(name)
    return {
        "threshold": threshold,
        "draws": draws,
        "images": len(next(iter(pooled.values())).labels_P),
        "tap_points": tap_points,
        "heads": [
            _heads(index, pooled[tap], [other[tap] for other in others], shape.heads, threshold)
            for index, shape in enumerate(model.config.encoders)
            for tap in (f"encoders.{index}.heads",)
        ],
    }
