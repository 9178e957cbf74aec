"""What nodes and heads come to where there is nothing to find, measured by the code that measures the trained model.

untrained        a model of the same shape with random weights, with probes trained for it
untrained_again  another such model
exchanged        the trained model and its probes, with the labels of the measured images exchanged at random

A finding says something only as far as it goes beyond these.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch

from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.names import UNTRAINED, UNTRAINED_AGAIN
from headwise_exporter.nodes.snp import PooledNodes

SEEDS: Final = {UNTRAINED: 0, UNTRAINED_AGAIN: 1}  # of the random weights


def untrained(model: CCT, seed: int) -> CCT:
    """A model of the same shape with random weights, in evaluation mode; random numbers elsewhere stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CCT(model.config).eval()


def exchanged(pooled: Mapping[str, PooledNodes], seed: int = 0) -> dict[str, PooledNodes]:
    """The same nodes with the images' labels exchanged at random, in the same way at every tap point."""
    labels_P = next(iter(pooled.values())).labels_P
    order_P = torch.randperm(len(labels_P), generator=torch.Generator().manual_seed(seed))
    return {name: replace(nodes, labels_P=labels_P[order_P]) for name, nodes in pooled.items()}
