"""Which hidden nodes a few chosen labels need: removal for a subset of labels, where label-blind criteria should lose.

For a subset S of the labels, feed-forward hidden nodes of every encoder are ranked and all but a share of them replaced
by their means over training images of S, with no training after; what counts is the accuracy among S, the largest of
S's logits. Criteria, each comparing nodes within an encoder:
- `random`; of `pruning.criteria` `magnitude`, blind to labels and data, `variance` and `taylor`, from images of S;
- `snp`: positive diagonal fields on S, the sum over j in S of max(M_n[j,j], 0);
- `contrast`: how far the node's SNP matrix tells the labels of S apart: the norm of its part S x S without what is
  common to a row or to a column. Of a matrix of rank one that is |S| std(means over S) std(weights to S) [our choice];
- products of `magnitude`, `variance` and `taylor` with `contrast` (`pruning.scores`).
The SNP criteria need no pass over the images of S: one measurement of the model serves every subset.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import FEED_FORWARD_HIDDEN, UnitGroup
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.nodes.snp import THRESHOLD, NodeMeasurement
from headwise_exporter.pruning import criteria
from headwise_exporter.pruning.compaction import KeptUnits, mask_units, top_indices
from headwise_exporter.pruning.names import BASIC
from headwise_exporter.pruning.scores import product
from headwise_exporter.studies.settings import SubsetSettings
from headwise_exporter.training.evaluation import predict

BASELINE = "taylor"
CRITERIA = (
    "random",
    *BASIC,
    "snp",
    "contrast",
    *(f"{name}*contrast" for name in BASIC),
)


@dataclass(frozen=True)
class SubsetRow:
    """Accuracy among the labels of one subset."""

    labels: tuple[int, ...]
    criterion: str
    share: float
    accuracy: float
    dense_accuracy: float
    images: int


def draw_subsets(labels: int, settings: SubsetSettings) -> list[tuple[int, ...]]:
    """Random subsets of the labels, each ascending.

    Raises:
        ValueError: more labels asked for than there are.
    """
    if settings.labels > labels:
        raise ValueError(f"expected subsets of at most {labels} labels, found {settings.labels}")
    generator = torch.Generator().manual_seed(settings.seed)
    draws = (torch.randperm(labels, generator=generator)[: settings.labels] for _ in range(settings.subsets))
    return [tuple(sorted(draw.tolist())) for draw in draws]


def of_labels(data: LabelledImages, labels: Sequence[int]) -> LabelledImages:
    """The images of these labels."""
    return data.chosen(torch.isin(data.labels_N, torch.tensor(labels, device=data.device)).nonzero().flatten())


def accuracy_among(model: CCT, data: LabelledImages, labels: Sequence[int]) -> float:
    """Share of the images whose own logit is the largest of the subset's; all images are of the subset."""
    among = torch.tensor(labels, device=data.device)
    best = among[predict(model, data)[:, among].argmax(1)]
    return float((best == data.labels_N).double().mean())


def contrast(node: NodeMeasurement, labels: Sequence[int]) -> Tensor:
    """How far each node's matrix tells the labels apart (N,)."""
    means_SN, weight_SN = (values_KN[list(labels)] for values_KN in (node.label_means_KN, node.weight_KN))
    return len(labels) * means_SN.std(0, correction=0) * weight_SN.std(0, correction=0)


def positive_fields(node: NodeMeasurement, labels: Sequence[int]) -> Tensor:
    """Positive diagonal fields on the labels (N,)."""
    chosen = list(labels)
    return (node.label_means_KN[chosen] * node.weight_KN[chosen]).clamp(min=0).sum(0)


def _factor(
    group: UnitGroup,
    basic: Mapping[str, Mapping[str, Tensor]],
    node: NodeMeasurement,
    labels: Sequence[int],
    generator: torch.Generator,
    name: str,
) -> Tensor:
    match name:
        case "random":
            return torch.rand(group.units, generator=generator, dtype=torch.float64)
        case "snp":
            return positive_fields(node, labels)
        case "contrast":
            return contrast(node, labels)
        case _:
            return basic[name][group.name]


def scores(
    model: CCT,
    moments: criteria.GroupMoments,
    nodes: Mapping[str, NodeMeasurement],
    labels: Sequence[int],
    criterion: str,
    generator: torch.Generator,
) -> list[Tensor]:
    """Score of every hidden node (F,), for each encoder.

    Raises:
        ValueError: the criterion is none of `CRITERIA`.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"expected a criterion of {', '.join(CRITERIA)}, found {criterion!r}")
    basic = {
        name: criteria.scores(model, moments, nodes, THRESHOLD, name) for name in criterion.split("*") if name in BASIC
    }
    return [
        product(criterion, partial(_factor, group, basic, nodes[group.name], labels, generator))
        for group in model.unit_groups()
        if group.kind == FEED_FORWARD_HIDDEN
    ]


def keep_hidden(model: CCT, scores: Sequence[Tensor], means: Mapping[str, Tensor], share: float) -> CCT:
    """The model in which all but a share of each encoder's hidden nodes are replaced by their means."""
    everything = KeptUnits.all(model.config)
    kept = []
    for units, score_F in zip(everything.encoders, scores, strict=True):
        hidden = top_indices(score_F, max(1, round(share * len(units.feed_forward))))
        kept.append(replace(units, feed_forward=hidden))
    return mask_units(model, replace(everything, encoders=tuple(kept)), means)


def remove_for_subsets(
    model: CCT,
    measurements: Measurements,
    train_data: LabelledImages,
    evaluated: LabelledImages,
    settings: SubsetSettings,
    on_subset: Callable[[str], None] = lambda note: None,
) -> list[SubsetRow]:
    """Every criterion at every share for every subset.

    Raises:
        ValueError: more labels asked for than there are.
    """
    rows = []
    for number, labels in enumerate(draw_subsets(model.config.labels, settings)):
        seen = of_labels(train_data, labels).sample(settings.images, settings.seed)
        held_out = of_labels(evaluated, labels)
        moments = criteria.collect_moments(model, seen)
        means = criteria.mean_activations(moments)
        dense = accuracy_among(model, held_out, labels)
        generator = torch.Generator().manual_seed(settings.seed + number)
        for criterion in CRITERIA:
            ranked = scores(model, moments, measurements.nodes, labels, criterion, generator)
            for share in settings.shares:
                small = keep_hidden(model, ranked, means, share)
                accuracy = accuracy_among(small, held_out, labels)
                rows.append(SubsetRow(labels, criterion, share, accuracy, dense, len(held_out)))
        on_subset(f"subset {number + 1}")
    return rows


@dataclass(frozen=True)
class SubsetResult:
    """One criterion at one share, over the subsets."""

    criterion: str
    share: float
    accuracy: float  # mean
    low: float  # 95 %, bootstrap over the subsets
    high: float
    to_baseline: float  # mean difference to `taylor` on the same subsets
    p_value: float  # of that difference, Wilcoxon's signed ranks


def results(rows: Sequence[SubsetRow]) -> list[SubsetResult]:
    """Means over the subsets, in the order of the rows."""
    from scipy.stats import wilcoxon  # slow to import, which `exporter --help` need not wait for

    grouped: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        grouped.setdefault((row.criterion, row.share), []).append(row.accuracy)
    summary = []
    for (criterion, share), accuracies in grouped.items():
        paired = [own - base for own, base in zip(accuracies, grouped[BASELINE, share], strict=True)]
        low, high = _interval(accuracies)
        p_value = float(wilcoxon(paired).pvalue) if any(paired) else 1.0
        mean = sum(accuracies) / len(accuracies)
        summary.append(SubsetResult(criterion, share, mean, low, high, sum(paired) / len(paired), p_value))
    return summary


def _interval(values: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import bootstrap  # slow to import, which `exporter --help` need not wait for

    if len(set(values)) == 1:
        return values[0], values[0]
    interval = bootstrap((values,), statistic=_mean, rng=0, method="percentile").confidence_interval
    return float(interval.low), float(interval.high)


def _mean(values: Any, axis: int = -1) -> Any:
    return values.mean(axis=axis)


def as_record(settings: SubsetSettings, rows: Sequence[SubsetRow]) -> dict[str, Any]:
    """Settings, rows and results as plain values."""
    return {
        "settings": asdict(settings),
        "rows": [asdict(row) for row in rows],
        "results": [asdict(result) for result in results(rows)],
        "dense_accuracy": sum(row.dense_accuracy for row in rows) / len(rows),
    }
