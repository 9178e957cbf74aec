"""ANDC against its controls: as many connections kept in each layer, the same fine-tuning, the same images.

For each share of the connections, seed and rule of `pruning.connections`: masks, the accuracy at once, and after the
fine-tuning. `dense` is the model without masks after the same training of the same layers. The seed draws the random
masks and the order and augmentation of that training. With a `gradual` rule the share falls to the one asked for in ten
stages over the first half of that training, along a cubic (arXiv:1710.01878), each stage's masks chosen from the
weights of that moment. Two rules are compared on the same images by McNemar's exact test over those that one of them
alone gets right, seed by seed.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import Measurements
from headwise_exporter.pruning import andc
from headwise_exporter.pruning.connections import ANDC, CHANCE, DENSE, GRADUAL, RULES, Evidence, input_scales, masks_by
from headwise_exporter.training.loop import TrainingSettings, predict, train

STAGES = 10  # of a gradual rule
Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared."""

    shares: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05)  # of each masked layer's connections
    rules: tuple[str, ...] = RULES
    seeds: int = 3
    rule: andc.Rule = "both"  # which layers are masked
    epochs: int = 1  # of the fine-tuning
    images: int | None = None  # of the training split, drawn at random; all by default
    batch_size: int | None = None  # of the fine-tuning; the dense model's by default
    learning_rate: float = 3e-4  # peak of the fine-tuning


@dataclass(frozen=True)
class Row:
    """One masked model on the evaluated images."""

    share: float  # asked for
    seed: int
    rule: str
    kept: float  # share of the masked layers' connections that is kept
    images: int
    masked_accuracy: float  # at once; of a gradual rule under the masks of its first stage
    accuracy: float  # after the fine-tuning
    wrong: tuple[int, ...]  # images that it then gets wrong, so that any two rows can be paired


Case = tuple[float, int, str]


def cases(settings: ComparisonSettings) -> Iterator[Case]:
    """Share, seed and rule of every row, in order."""
    for seed in range(settings.seeds):
        yield 1.0, seed, DENSE
    for share in settings.shares:
        for seed in range(settings.seeds):
            for rule in settings.rules:
                yield share, seed, rule


def _wrong(model: CCT, data: LabelledImages) -> Tensor:
    return (predict(model, data).argmax(1) != data.labels_N).cpu()


def compare(
    model: CCT,
    measurements: Measurements,
    train_data: LabelledImages,
    evaluated: LabelledImages,
    settings: ComparisonSettings,
    training: TrainingSettings,
    done: Sequence[Row] = (),
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Carry out every case.

    Args:
        training: of the fine-tuning; its seed is replaced.
        done: rows of an earlier call with the same arguments, which are taken as they are.
        on_row: told each new row.

    Raises:
        ValueError: unknown rule.
    """
    evidence = Evidence(model, measurements.nodes, input_scales(model, train_data))
    known = {(row.share, row.seed, row.rule): row for row in done}
    rows = []
    for case in cases(settings):
        if case not in known:
            share, seed, rule = case
            same = known[share, 0, rule] if seed and rule not in CHANCE else None
            at_once = same.masked_accuracy if same else None
            known[case] = _row(case, settings.rule, evidence, train_data, evaluated, training, at_once)
            on_row(known[case])
        rows.append(known[case])
    return rows


def falling_shares(share: float, stages: int) -> list[float]:
    """Shares of connections that the stages keep, the last of them `share`."""
    return [share + (1 - share) * (1 - stage / stages) ** 3 for stage in range(1, stages + 1)]


def mask_in_stages(model: CCT, stages: Sequence[Callable[[], Masks]], steps: int) -> Callable[[], None]:
    """Applies the first stage's masks now; what it returns is called after each step, and goes on to the others.

    Args:
        steps: of the training; the last stage begins before their half, or with the first of them.
    """
    starts = {max(1, round(stage * steps / 2 / len(stages))): choose for stage, choose in enumerate(stages) if stage}
    step, masks = 0, stages[0]()
    andc.apply_masks(model, masks)

    def after_step() -> None:
        nonlocal step, masks
        step += 1
        masks = starts[step]() if step in starts else masks
        andc.apply_masks(model, masks)

    return after_step


def _row(
    case: Case,
    layers: andc.Rule,
    evidence: Evidence,
    train_data: LabelledImages,
    evaluated: LabelledImages,
    training: TrainingSettings,
    at_once: float | None,
) -> Row:
    share, seed, rule = case
    masked = copy.deepcopy(evidence.model)
    own = replace(evidence, model=masked)
    andc_masks = [
        andc.masks_keeping(masked, evidence.nodes, layers, stage_share)
        for stage_share in falling_shares(share, STAGES if rule.startswith(GRADUAL) else 1)
    ]
    stages = [partial(masks_by, rule, stage_masks, own, seed) for stage_masks in andc_masks]
    after_step = mask_in_stages(masked, stages, training.epochs * math.ceil(len(train_data) / training.batch_size))
    if at_once is None:
        at_once = 1 - float(_wrong(masked, evaluated).double().mean())
    learning = andc.learning_parameters(masked, andc_masks[-1])
    train(masked, train_data, replace(training, seed=seed), parameters=learning, after_step=after_step)
    wrong_N = _wrong(masked, evaluated)
    wrong = tuple(torch.nonzero(wrong_N).flatten().tolist())
    images, kept = len(evaluated), andc.kept_share(stages[-1]())
    return Row(share, seed, rule, kept, images, at_once, 1 - len(wrong) / images, wrong)


@dataclass(frozen=True)
class Difference:
    """Mean accuracy of one rule minus another's, over the seeds."""

    mean: float
    lowest: float  # of a seed
    highest: float
    p_values: tuple[float, ...]  # McNemar's, seed by seed


@dataclass(frozen=True)
class RuleResult:
    """One rule at one share, over the seeds."""

    share: float  # asked for
    kept: float
    rule: str
    masked_accuracies: tuple[float, ...]  # at once, seed by seed
    accuracies: tuple[float, ...]  # after the fine-tuning
    to_dense: Difference
    to_andc: Difference | None  # None for the dense model
    to_factor: Difference | None  # of a product of scores, to the first of them; None where that was not tried


def mcnemar(wrong: Sequence[int], other: Sequence[int]) -> float:
    """Two-sided p-value that two models are equally often right, from the images that each gets wrong."""
    from scipy.stats import binomtest  # slow to import, which `exporter --help` need not wait for

    only, only_other = len(set(wrong) - set(other)), len(set(other) - set(wrong))
    return float(binomtest(only, only + only_other).pvalue) if only + only_other else 1.0


def _difference(rows: Sequence[Row], others: Sequence[Row]) -> Difference:
    paired = [row.accuracy - other.accuracy for row, other in zip(rows, others, strict=True)]
    p_values = (mcnemar(row.wrong, other.wrong) for row, other in zip(rows, others, strict=True))
    return Difference(sum(paired) / len(paired), min(paired), max(paired), tuple(p_values))


def results(rows: Sequence[Row]) -> list[RuleResult]:
    """Every rule at every share against the dense model and against ANDC, in the order of the rows."""
    grouped: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.share, row.rule), []).append(row)
    return [
        RuleResult(
            share=share,
            kept=group[0].kept,
            rule=rule,
            masked_accuracies=tuple(row.masked_accuracy for row in group),
            accuracies=tuple(row.accuracy for row in group),
            to_dense=_difference(group, grouped[1.0, DENSE]),
            to_andc=None if rule == DENSE else _difference(group, grouped[share, ANDC]),
            to_factor=_difference(group, factor) if (factor := _factor_rows(grouped, share, rule)) else None,
        )
        for (share, rule), group in grouped.items()
    ]


def _factor_rows(grouped: Mapping[tuple[float, str], list[Row]], share: float, rule: str) -> list[Row] | None:
    return grouped.get((share, rule.split("*")[0])) if "*" in rule else None


def row_from(values: dict[str, Any]) -> Row:
    """A row that `dataclasses.asdict` took apart."""
    return Row(**{**values, "wrong": tuple(values["wrong"])})


def as_record(settings: ComparisonSettings, rows: Sequence[Row]) -> dict[str, Any]:
    """Settings, rows and results as plain values."""
    return {
        "settings": asdict(settings),
        "images": rows[0].images,
        "rows": [asdict(row) for row in rows],
        "results": [asdict(result) for result in results(rows)],
    }
