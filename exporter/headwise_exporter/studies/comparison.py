"""ANDC against its controls: as many connections kept in each layer, the same fine-tuning, the same images.

For each share of the connections, seed and choice of `pruning.connections`: masks, the accuracy at once, and after the
fine-tuning. `dense` is the model without masks after the same training of the same layers. The seed draws the random
masks and the order and augmentation of that training. Where masks are `gradual` the share falls to the one asked for in
ten stages over the first half of that training, along a cubic (arXiv:1710.01878), each stage's masks chosen from the
weights of that moment. Two choices are compared on the same images by McNemar's exact test over those that one of them
alone gets right, seed by seed.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.pruning.andc import andc_masks_keeping
from headwise_exporter.pruning.connections import Evidence, choose_masks, input_scales
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.pruning.names import ANDC, CHANCE, DENSE, GRADUAL, Layers
from headwise_exporter.studies.settings import ComparisonSettings
from headwise_exporter.training.evaluation import Evaluation, evaluate
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings

STAGES = 10  # of gradual masks


@dataclass(frozen=True)
class Row:
    """One masked model on the evaluated images."""

    share: float  # asked for
    seed: int
    mask_by: str
    kept: float  # share of the masked layers' connections that is kept
    images: int
    masked_accuracy: float  # at once; where masks are gradual, under those of the first stage
    accuracy: float  # after the fine-tuning
    wrong: tuple[int, ...]  # images that it then gets wrong, so that any two rows can be paired


Case = tuple[float, int, str]


def cases(settings: ComparisonSettings) -> Iterator[Case]:
    """Share, seed and choice of masks of every row, in order."""
    for seed in range(settings.seeds):
        yield 1.0, seed, DENSE
    for share in settings.shares:
        for seed in range(settings.seeds):
            for mask_by in settings.mask_by:
                yield share, seed, mask_by


def make_row(case: Case, kept: float, masked_accuracy: float, evaluation: Evaluation) -> Row:
    """The row of a case from what its model came to."""
    share, seed, mask_by = case
    wrong = tuple(torch.nonzero(~evaluation.correct_N).flatten().tolist())
    images = evaluation.images
    return Row(share, seed, mask_by, kept, images, masked_accuracy, 1 - len(wrong) / images, wrong)


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
        on_row: called with each new row.

    Raises:
        ValueError: unknown choice of masks.
    """
    evidence = Evidence(model, measurements.nodes, input_scales(model, train_data))
    known = {(row.share, row.seed, row.mask_by): row for row in done}
    rows = []
    for case in cases(settings):
        if case not in known:
            share, seed, mask_by = case
            same = known[share, 0, mask_by] if seed and mask_by not in CHANCE else None
            at_once = same.masked_accuracy if same else None
            known[case] = _row(case, settings.layers, evidence, train_data, evaluated, training, at_once)
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
    masks.apply(model)

    def after_step() -> None:
        nonlocal step, masks
        step += 1
        masks = starts[step]() if step in starts else masks
        masks.apply(model)

    return after_step


def _row(
    case: Case,
    layers: Layers,
    evidence: Evidence,
    train_data: LabelledImages,
    evaluated: LabelledImages,
    training: TrainingSettings,
    at_once: float | None,
) -> Row:
    share, seed, mask_by = case
    masked = copy.deepcopy(evidence.model)
    own = replace(evidence, model=masked)
    andc = [
        andc_masks_keeping(masked, evidence.nodes, layers, stage_share)
        for stage_share in falling_shares(share, STAGES if mask_by.startswith(GRADUAL) else 1)
    ]
    stages = [partial(choose_masks, mask_by, stage_masks, own, seed) for stage_masks in andc]
    after_step = mask_in_stages(masked, stages, training.epochs * math.ceil(len(train_data) / training.batch_size))
    if at_once is None:
        at_once = evaluate(masked, evaluated).accuracy
    learning = andc[-1].learning_parameters(masked)
    train(masked, train_data, replace(training, seed=seed), parameters=learning, after_step=after_step)
    return make_row(case, stages[-1]().kept_share(), at_once, evaluate(masked, evaluated))


@dataclass(frozen=True)
class Difference:
    """Mean accuracy under one choice of masks minus that under another, over the seeds."""

    mean: float
    lowest: float  # of a seed
    highest: float
    p_values: tuple[float, ...]  # McNemar's, seed by seed


@dataclass(frozen=True)
class Result:
    """One choice of masks at one share, over the seeds."""

    share: float  # asked for
    kept: float
    mask_by: str
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


def results(rows: Sequence[Row]) -> list[Result]:
    """Every choice of masks at every share against the dense model and against ANDC, in the order of the rows."""
    grouped: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.share, row.mask_by), []).append(row)
    return [
        Result(
            share=share,
            kept=group[0].kept,
            mask_by=mask_by,
            masked_accuracies=tuple(row.masked_accuracy for row in group),
            accuracies=tuple(row.accuracy for row in group),
            to_dense=_difference(group, grouped[1.0, DENSE]),
            to_andc=None if mask_by == DENSE else _difference(group, grouped[share, ANDC]),
            to_factor=_difference(group, factor) if (factor := _factor_rows(grouped, share, mask_by)) else None,
        )
        for (share, mask_by), group in grouped.items()
    ]


def _factor_rows(grouped: Mapping[tuple[float, str], list[Row]], share: float, mask_by: str) -> list[Row] | None:
    return grouped.get((share, mask_by.split("*")[0])) if "*" in mask_by else None


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
