"""Single-nodal performance (SNP): which labels each node recognises, and how much noise it adds.

Tap points are the model's (`CCT.tap_points`): the filters of each convolution before the last, whose tokens are the
places of their maps; for each encoder `heads`, `feed_forward_hidden` and `feed_forward_out`; and `classifier_head`, the
pooled nodes that the model's own classifier head reads.

Probe [the group's procedure, arXiv:2501.12880]: the model up to the tap is frozen; sequence pooling and ONE bias-free
linear layer to the K labels learn on the training images. The field of node n on label j for image x is
`z_n(x) W[j,n]`, z the pooled node values, the pooling weights computed with all nodes present. Hence
- the fields of all nodes add up to the probe's output, exactly;
- `M_n[i,j] = mean over held-out images of label i = mean_i(z_n) W[j,n]`: the label means of z and W, collected in ONE
  pass over the images, hold the matrix of every node. No node is ever silenced. Each M_n has rank one.

Clusters [the same group]: M_n over its maximum, clipped at a threshold (0.3) to a Boolean B_n. Candidates are the
labels with B_n[j,j], ascending; the first free one opens a cluster, each later one joins that keeps the whole block
ones; repeat. D_n is the union of the clusters; noise is the number of ones outside their blocks. A node whose maximal
field is not positive has no cluster.

Limits: B_n depends on the threshold, and the probe sees linear information only.

"SNP" also names an unrelated pruning method, Structured Neuron-level Pruning (arXiv:2404.11630).

Shape suffixes: B batch, P held-out images, T tokens, N nodes, K labels (rows of a matrix are true labels, columns
outputs).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import CLASSIFIER_HEAD, by_token
from headwise_exporter.model.cct import CCT
from headwise_exporter.progress import Count, uncounted

THRESHOLD = 0.3  # the group's


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are trained [our choice]."""

    epochs: int = 30
    images: int | None = None  # of the training split, drawn at random; all by default
    batch_size: int = 128
    learning_rate: float = 5e-3
    seed: int = 0


class Probe(nn.Module):
    """Sequence pooling and one bias-free linear layer on the values of a tap point (B, T, N)."""

    def __init__(self, nodes: int, labels: int) -> None:
        super().__init__()
        self.attention_pool = nn.Linear(nodes, 1)
        self.fc = nn.Linear(nodes, labels, bias=False)

    def pool(self, values_BTN: Tensor) -> Tensor:
        """Pooled node values z (B, N)."""
        weights_BT1 = self.attention_pool(values_BTN).softmax(dim=1)
        pooled_BN: Tensor = (weights_BT1.transpose(1, 2) @ values_BTN).squeeze(1)
        return pooled_BN

    def forward(self, values_BTN: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits_BK: Tensor = self.fc(self.pool(values_BTN))
        return logits_BK


def train_probes(
    model: CCT,
    data: LabelledImages,
    settings: ProbeSettings,
    on_images: Count = uncounted,
) -> dict[str, Probe]:
    """Train the probes of all tap points together, but for what the model pools itself.

    The model runs once for each batch and feeds every probe; nothing but the batch is held in memory. The model is
    frozen in evaluation mode, and the probes do not influence one another.
    """
    torch.manual_seed(settings.seed)
    taps = [tap for tap in model.tap_points() if not tap.pooled]
    probes = {tap.name: Probe(tap.nodes, model.config.labels).to(data.device) for tap in taps}
    optimizer = torch.optim.Adam([p for probe in probes.values() for p in probe.parameters()], settings.learning_rate)
    steps = settings.epochs * -(-len(data) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.eval()
    with data.visited_by(model):
        for _ in range(settings.epochs):
            for batch in torch.split(torch.randperm(len(data)), settings.batch_size):
                labels_B = data.labels_N[batch.to(data.device)]
                with torch.no_grad():
                    _, activations = model(data.normalised(batch))
                losses = [
                    functional.cross_entropy(probe(by_token(activations[name])), labels_B)
                    for name, probe in probes.items()
                ]
                optimizer.zero_grad(set_to_none=True)
                torch.stack(losses).sum().backward()
                optimizer.step()
                schedule.step()
                on_images(len(batch))
    return {name: probe.cpu().eval().requires_grad_(False) for name, probe in probes.items()}


@dataclass(frozen=True)
class NodeMeasurement:
    """What one pass leaves of one tap point; all SNP matrices follow from it."""

    label_means_KN: Tensor  # mean pooled value of each node over the images of each true label
    weight_KN: Tensor  # the probe's weights
    correct: int  # images the probe classified right
    images: int

    def matrices(self) -> Tensor:
        """SNP matrix of every node (N, K, K)."""
        return self.label_means_KN.T.unsqueeze(2) * self.weight_KN.T.unsqueeze(1)

    def accuracy(self) -> float:
        """Held-out accuracy up to this point."""
        return self.correct / self.images


@dataclass(frozen=True)
class PooledNodes:
    """Values z of all nodes of one tap point on held-out images, and what reads them."""

    values_PN: Tensor  # float32
    labels_P: Tensor
    weight_KN: Tensor
    bias_K: Tensor  # zero for a probe

    def fields(self, nodes: slice = slice(None)) -> Tensor:
        """Sum of the fields of these nodes (P, K)."""
        return self.values_PN[:, nodes] @ self.weight_KN[:, nodes].T

    def chosen(self, images: Tensor) -> "PooledNodes":
        """The same on some of the images, by their indices; an image may come more than once."""
        return replace(self, values_PN=self.values_PN[images], labels_P=self.labels_P[images])

    def measurement(self) -> NodeMeasurement:
        """Label means and accuracy; each row is divided by its own image count, so unbalanced classes weigh the same.

        Raises:
            ValueError: a label has no image.
        """
        labels, nodes = self.weight_KN.shape
        counts_K = torch.bincount(self.labels_P, minlength=labels)
        if empty := torch.nonzero(counts_K == 0).flatten().tolist():
            raise ValueError(f"expected at least one held-out image of each label, found none of label(s) {empty}")
        sums_KN = torch.zeros(labels, nodes, dtype=torch.float64)
        sums_KN.index_add_(0, self.labels_P, self.values_PN.double())
        correct = int(((self.fields() + self.bias_K).argmax(1) == self.labels_P).sum())
        return NodeMeasurement(sums_KN / counts_K.unsqueeze(1), self.weight_KN.double(), correct, len(self.labels_P))


@torch.no_grad()
def pool_nodes(
    model: CCT,
    probes: Mapping[str, Probe],
    data: LabelledImages,
    batch_size: int | None = None,
    on_images: Count = uncounted,
) -> dict[str, PooledNodes]:
    """Pool the nodes of every tap point, and of the model's own classifier head, in one pass over held-out images.

    The model runs on the device of the images; what is pooled is on the CPU, 4 bytes for each image and node: 0.3 GB
    for CCT-7 on 10,000 images. Activations of all tokens are never held for more than a batch.
    """
    head = model.classifier.fc
    readers = {name: (probe.fc.weight, torch.zeros(model.config.labels)) for name, probe in probes.items()}
    readers[CLASSIFIER_HEAD] = (head.weight, head.bias)
    sizes = {name: (len(data), weight_KN.shape[1]) for name, (weight_KN, _) in readers.items()}
    values = {name: torch.empty(size) for name, size in sizes.items()}
    model.eval()
    with data.visited_by(nn.ModuleList([model, *probes.values()])):
        first = 0
        for images_BCYX, labels_B in data.batches(batch_size):
            _, activations = model(images_BCYX)
            pooled = {name: probe.pool(by_token(activations[name])) for name, probe in probes.items()}
            pooled[CLASSIFIER_HEAD] = activations[CLASSIFIER_HEAD]
            for name, pooled_BN in pooled.items():
                values[name][first : first + len(labels_B)] = pooled_BN
            first += len(labels_B)
            on_images(len(labels_B))
    labels_P = data.labels_N.cpu()
    return {
        name: PooledNodes(values[name], labels_P, weight_KN.detach().cpu(), bias_K.detach().cpu())
        for name, (weight_KN, bias_K) in readers.items()
    }


def measure(
    model: CCT,
    probes: Mapping[str, Probe],
    data: LabelledImages,
    batch_size: int | None = None,
    on_images: Count = uncounted,
) -> dict[str, NodeMeasurement]:
    """Measure every node of every tap point, and of the model's own classifier head, in one pass over held-out images.

    Raises:
        ValueError: a label has no image.
    """
    pooled = pool_nodes(model, probes, data, batch_size, on_images)
    return {name: nodes.measurement() for name, nodes in pooled.items()}


def recognised(matrices_NKK: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Boolean matrices B_n (N, K, K): fields over the matrix's maximum, above the threshold.

    All false where the maximum is not positive.
    """
    maxima_N11 = matrices_NKK.amax(dim=(1, 2), keepdim=True)
    return (matrices_NKK > threshold * maxima_N11) & (maxima_N11 > 0)


def relative_fields(node: NodeMeasurement) -> Tensor:
    """Diagonal of every matrix over the matrix's maximum (N, K); zero where the maximum is not positive.

    The maximum is taken from the factors: of a matrix of rank one it lies where two of their extremes meet.
    """
    factors = [
        torch.stack((values_KN.amin(0), values_KN.amax(0))) for values_KN in (node.label_means_KN, node.weight_KN)
    ]
    maximum_N1 = (factors[0].unsqueeze(1) * factors[1].unsqueeze(0)).amax((0, 1)).unsqueeze(1)
    diagonal_NK = (node.label_means_KN * node.weight_KN).T
    return torch.where(maximum_N1 > 0, diagonal_NK / maximum_N1.clamp(min=1e-300), 0.0)


def recognised_labels(node: NodeMeasurement, threshold: float = THRESHOLD) -> Tensor:
    """D_n as a Boolean row (N, K), as the clusters give it but without finding them."""
    return relative_fields(node) > threshold


def clusters(recognised_NKK: Tensor) -> Tensor:
    """Cluster of each label for each node (N, K), counted from 0; -1 for labels that the node does not recognise.

    Source: the greedy rule of arXiv:2501.12880, for all nodes at once.
    """
    nodes, labels, _ = recognised_NKK.shape
    both_NKK = recognised_NKK & recognised_NKK.transpose(1, 2)
    fits_NKK = torch.ones_like(recognised_NKK)  # whether cluster g and label k, of [n, g, k], are a block of ones
    cluster_NK = torch.full((nodes, labels), -1)
    for label in range(labels):
        # Filling one cluster after another is the same as giving each label to the first cluster that it fits.
        nodes_C = torch.nonzero(recognised_NKK[:, label, label]).flatten()
        first_C = fits_NKK[nodes_C, :, label].byte().argmax(1)
        fits_NKK[nodes_C, first_C] &= both_NKK[nodes_C, label]
        cluster_NK[nodes_C, label] = first_C
    return cluster_NK


@dataclass(frozen=True)
class NodeStatistics:
    """Clusters and noise of every node of one tap point, and the figures over them."""

    recognised_NKK: Tensor
    cluster_NK: Tensor
    clusters_N: Tensor
    cluster_size_N: Tensor  # mean over the node's clusters; 0 without one
    noise_N: Tensor  # ones outside the blocks

    @property
    def labels_NK(self) -> Tensor:
        """D_n as a Boolean row: the labels in the node's clusters."""
        return self.cluster_NK >= 0

    @property
    def has_cluster_N(self) -> Tensor:
        """Nodes that recognise at least one label."""
        return self.clusters_N > 0

    def signal_and_noise(self) -> tuple[float, float]:
        """Mean signal and mean noise over the labels [our choice; the paper's formula is not public].

        signal(i) = sum over nodes of B_n[i,i]; noise(i) = mean over j != i of the sum over nodes of B_n[i,j].
        """
        totals_KK = self.recognised_NKK.sum(0).double()
        labels = totals_KK.shape[0]
        signal = totals_KK.diagonal().sum()
        noise = (totals_KK.sum() - signal) / (labels - 1)
        return float(signal / labels), float(noise / labels)


def statistics(measurement: NodeMeasurement, threshold: float = THRESHOLD) -> NodeStatistics:
    """Clusters and noise of every node, at a threshold."""
    return matrix_statistics(measurement.matrices(), threshold)


def matrix_statistics(matrices_NKK: Tensor, threshold: float = THRESHOLD) -> NodeStatistics:
    """Clusters and noise of nodes, or of units of several nodes, from their matrices."""
    recognised_NKK = recognised(matrices_NKK, threshold)
    cluster_NK = clusters(recognised_NKK)
    clusters_N = cluster_NK.amax(1) + 1
    inside_NK = cluster_NK >= 0
    sizes_NK = torch.zeros_like(cluster_NK).scatter_add_(1, cluster_NK.clamp(min=0), inside_NK.long())
    return NodeStatistics(
        recognised_NKK=recognised_NKK,
        cluster_NK=cluster_NK,
        clusters_N=clusters_N,
        cluster_size_N=inside_NK.sum(1) / clusters_N.clamp(min=1),
        noise_N=torch.count_nonzero(recognised_NKK, (1, 2)) - (sizes_NK**2).sum(1),
    )
