"""Rank removable units.

Criteria, each a score for a node n with activation a_n, read by column w_n of the next layer:
- `magnitude`: |incoming weights| |w_n|, label-blind and data-blind;
- `variance`: variance of a_n over images and tokens times |w_n|^2, the energy that is lost when the mean is kept;
- `taylor`: mean over images of the squared first-order change of the loss when a_n becomes its mean
  (arXiv:1906.10771, with the mean in place of zero because the mean is what compaction folds);
- `snp`: the diagonal field of n on the labels of its clusters, sum over j in D_n of M_n[j,j] [our choice];
- products of each of the first three with `snp` (`pruning.scores`);
- `taylor*distinct`: nodes of the same clusters may be redundant, so `distinct` is 1 minus the largest cosine of n's SNP
  matrix with that of a node whose `snp` score is larger [our choice].
Filters are scored alike, over places in place of tokens, w_n being all weights that read the filter.
Queries and keys carry no field of their own, they only weigh tokens: under every criterion their score is the mean
energy, E[q^2] and E[k^2].

`pruning.compaction` says which units are kept.

Shape suffixes as in `model.cct`; N = H*V.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import UnitGroup, by_token
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import NodeMeasurement, recognised_labels
from headwise_exporter.progress import Count, uncounted
from headwise_exporter.pruning.names import CRITERIA
from headwise_exporter.pruning.scores import product


class Moments:
    """Running sums over images and tokens of one tap point: means, variances, energies and Taylor terms."""

    def __init__(self, nodes: int) -> None:
        zeros = torch.zeros(nodes, dtype=torch.float64)
        self.sum_N, self.square_N = zeros.clone(), zeros.clone()
        self.activation_gradient_N, self.cross_N, self.gradient_N = zeros.clone(), zeros.clone(), zeros.clone()
        self.values = self.images = 0

    def add(self, activation_BTN: Tensor, gradient_BTN: Tensor) -> None:
        """Take in one batch; the gradient is that of the summed loss of the batch."""
        self.sum_N += activation_BTN.sum((0, 1)).cpu()
        self.square_N += activation_BTN.square().sum((0, 1)).cpu()
        product_BN, gradient_BN = (activation_BTN * gradient_BTN).sum(1).double(), gradient_BTN.sum(1).double()
        self.activation_gradient_N += product_BN.square().sum(0).cpu()
        self.cross_N += (product_BN * gradient_BN).sum(0).cpu()
        self.gradient_N += gradient_BN.square().sum(0).cpu()
        self.images += activation_BTN.shape[0]
        self.values += activation_BTN.shape[0] * activation_BTN.shape[1]

    def mean(self) -> Tensor:
        """Mean activation (N,)."""
        return self.sum_N / self.values

    def energy(self) -> Tensor:
        """Mean square activation (N,)."""
        return self.square_N / self.values

    def variance(self) -> Tensor:
        """Variance of the activation (N,)."""
        return (self.energy() - self.mean().square()).clamp(min=0)

    def taylor(self) -> Tensor:
        """Mean over images of (sum over tokens of (a - mean) dL/da)^2 (N,)."""
        mean = self.mean()
        squared = self.activation_gradient_N - 2 * mean * self.cross_N + mean.square() * self.gradient_N
        return squared.clamp(min=0) / self.images


GroupMoments = Mapping[str, Moments]  # by the name of the group of units


def collect_moments(
    model: CCT, data: LabelledImages, batch_size: int | None = None, on_images: Count = uncounted
) -> dict[str, Moments]:
    """Moments of every group of `CCT.unit_groups`, by the group's name.

    One pass forward and back over training images, the model in evaluation mode, on the images' device.
    """
    collected = {group.name: Moments(group.units) for group in model.unit_groups()}
    model.eval()
    with data.visited_by(model):
        for images, labels in data.batches(batch_size):
            logits_BK, activations = model(images)
            loss = functional.cross_entropy(logits_BK, labels, reduction="sum")
            gradients = torch.autograd.grad(loss, [activations[name] for name in collected])
            for (name, moments), gradient in zip(collected.items(), gradients, strict=True):
                moments.add(by_token(activations[name].detach()), by_token(gradient))
            on_images(len(images))
    return collected


def mean_activations(moments: GroupMoments) -> dict[str, Tensor]:
    """Mean activation of every unit, by the name of its group: what removal folds into the biases."""
    return {name: moment.mean() for name, moment in moments.items()}


def snp_scores(measurement: NodeMeasurement, threshold: float) -> Tensor:
    """Diagonal field on the labels of the node's clusters (N,)."""
    diagonal_NK = (measurement.label_means_KN * measurement.weight_KN).T
    return (diagonal_NK * recognised_labels(measurement, threshold)).sum(1)


def distinct_scores(measurement: NodeMeasurement, threshold: float) -> Tensor:
    """1 minus the largest cosine, not below 0, with the matrix of a node of a larger SNP score (N,)."""
    # Of matrices of rank one the cosine is the product of their factors' cosines.
    means_KN, weight_KN = (
        functional.normalize(t_KN, dim=0) for t_KN in (measurement.label_means_KN, measurement.weight_KN)
    )
    cosine_NN = (means_KN.T @ means_KN) * (weight_KN.T @ weight_KN)
    order_N = snp_scores(measurement, threshold).argsort(descending=True, stable=True)
    ranked_NN = cosine_NN[order_N][:, order_N].tril(-1)  # above the diagonal stand nodes of smaller scores
    distinct_N = torch.empty_like(cosine_NN[0])
    distinct_N[order_N] = 1 - ranked_NN.amax(1).clamp(min=0)
    return distinct_N.clamp(min=0)


def _factor(
    model: CCT,
    group: UnitGroup,
    reader: nn.Linear | nn.Conv2d,
    moments: Moments,
    nodes: Mapping[str, NodeMeasurement],
    threshold: float,
    name: str,
) -> Tensor:
    outgoing: Tensor = reader.weight.detach().double().transpose(0, 1).flatten(1).norm(dim=1)
    match name:
        case "magnitude":
            incoming: Tensor = model.layer(group.written_by).weight[group.rows].detach().double().flatten(1).norm(dim=1)
            return incoming * outgoing
        case "variance":
            return moments.variance() * outgoing.square()
        case "taylor":
            return moments.taylor()
        case "snp":
            return snp_scores(nodes[group.name], threshold)
        case "distinct":
            return distinct_scores(nodes[group.name], threshold)
    raise ValueError(f"expected a factor of {', '.join(CRITERIA)}, found {name!r}")


def scores(
    model: CCT,
    moments: GroupMoments,
    nodes: Mapping[str, NodeMeasurement],
    threshold: float,
    criterion: str,
) -> dict[str, Tensor]:
    """Score of every unit of every group, by the group's name; of those that nothing reads, the mean energy.

    Raises:
        ValueError: the criterion is none of `CRITERIA`.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"expected a criterion of {', '.join(CRITERIA)}, found {criterion!r}")
    by_group: dict[str, Tensor] = {}
    for group in model.unit_groups():
        moment = moments[group.name]
        if group.read_by is None:
            by_group[group.name] = moment.energy()
            continue
        reader = model.layer(group.read_by)
        factor = partial(_factor, model, group, reader, moment, nodes, threshold)
        by_group[group.name] = product(criterion, factor)
    return by_group
