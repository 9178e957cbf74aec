"""What nodes and heads come to where there is nothing to find, measured by the code that measures the trained model.

untrained        a model of the same shape with random weights, with probes trained for it
untrained_again  another such model
exchanged        the trained model, with the labels of all images exchanged at random: those that its probes learn from,
                 and those that are measured. Exchanging the latter alone would not do: the weights of a probe that
                 learnt the true labels know them, and heads are sharp by these weights

A finding says something only as far as it goes beyond these.
"""

from dataclasses import replace
from typing import Final

import torch

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.names import UNTRAINED, UNTRAINED_AGAIN

SEEDS: Final = {UNTRAINED: 0, UNTRAINED_AGAIN: 1}  # of the random weights


def untrained(model: CCT, seed: int) -> CCT:
    """A model of the same shape with random weights, in evaluation mode; random numbers elsewhere stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CCT(model.config).eval()


def exchanged(data: LabelledImages, seed: int) -> LabelledImages:
    """The same images with their labels exchanged at random, as many of each as before."""
    order_N = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return replace(data, labels_N=data.labels_N[order_N.to(data.device)])
