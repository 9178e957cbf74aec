"""ANDC against its controls: rows, resuming, and the paired test."""

from dataclasses import asdict, replace

import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.studies.comparison import (
    Difference,
    Row,
    cases,
    compare,
    falling_shares,
    mask_in_stages,
    mcnemar,
    results,
    row_from,
)
from headwise_exporter.studies.settings import ComparisonSettings
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.settings import TrainingSettings
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

SETTINGS = ComparisonSettings(
    shares=(0.5, 0.1), mask_by=("andc", "random", "gradual wanda"), seeds=2, layers="feed_forward"
)
TRAINING = TrainingSettings(epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def rows(dense: CCT, measurements: Measurements, data: LabelledImages) -> list[Row]:
    """Rows of two shares, two seeds and three choices of masks."""
    return compare(dense, measurements, data, data, SETTINGS, TRAINING)


def test_every_case_has_a_row(rows: list[Row]) -> None:
    """Rows come in the order of shares, seeds and masks."""
    assert [(row.share, row.seed, row.mask_by) for row in rows] == list(cases(SETTINGS))
    assert len(rows) == 2 + 12


def test_masks_keep_the_same_share(rows: list[Row]) -> None:
    """The kept share is close to the given one, and the same for all masks."""
    for row in rows:
        assert row.kept == (1.0 if row.mask_by == "dense" else pytest.approx(row.share, abs=0.03))
        assert row.kept == next(other.kept for other in rows if other.share == row.share)


def test_accuracy_is_what_is_not_wrong(rows: list[Row]) -> None:
    """The listed images are those that the trained model gets wrong."""
    for row in rows:
        assert row.accuracy == pytest.approx(1 - len(row.wrong) / row.images)
        assert row.images == 60


def test_dense_model_is_not_changed(dense: CCT, rows: list[Row]) -> None:
    """Masks and training work on copies."""
    for name, value in support.random_model().state_dict().items():
        assert torch.equal(value, dense.state_dict()[name])


def test_finished_rows_are_not_computed_again(
    dense: CCT, measurements: Measurements, data: LabelledImages, rows: list[Row]
) -> None:
    """A comparison that goes on where it stopped gives the rows of one that did not stop."""
    new: list[Row] = []
    resumed = compare(dense, measurements, data, data, SETTINGS, TRAINING, rows[:13], new.append)
    assert resumed == rows
    assert new == rows[13:]


def test_row_survives_json(rows: list[Row]) -> None:
    """As plain values and back."""
    assert row_from({**asdict(rows[0]), "wrong": list(rows[0].wrong)}) == rows[0]


def row(mask_by: str, seed: int, wrong: tuple[int, ...]) -> Row:
    """A row on 10 test images."""
    return Row(1.0 if mask_by == "dense" else 0.5, seed, mask_by, 0.5, 10, 0.1, 1 - len(wrong) / 10, wrong)


def test_result_is_over_the_seeds_against_dense_and_andc() -> None:
    """Means of the accuracies, their range, and a p-value for each seed."""
    rows = [row("dense", seed, ()) for seed in (0, 1)]
    rows += [row("andc", 0, (1, 2)), row("random", 0, (1, 2, 3, 4)), row("andc", 1, (1,)), row("random", 1, (1,))]
    dense, andc, random = results(rows)
    assert [entry.mask_by for entry in (dense, andc, random)] == ["dense", "andc", "random"]
    assert dense.to_andc is None
    assert andc.to_andc == Difference(0.0, 0.0, 0.0, (1.0, 1.0))
    assert andc.to_dense.mean == pytest.approx(-0.15)
    assert random.accuracies == pytest.approx((0.6, 0.9))
    assert random.to_andc
    assert (random.to_andc.mean, random.to_andc.lowest, random.to_andc.highest) == pytest.approx((-0.1, -0.2, 0.0))
    assert random.to_andc.p_values == (0.5, 1.0)


def test_product_is_compared_with_its_first_factor() -> None:
    """Where that was tried; a gradual one with the gradual one."""
    rows = [
        row("dense", 0, ()),
        row("andc", 0, (1,)),
        row("magnitude", 0, (1, 2, 3)),
        row("magnitude*overlap", 0, (1,)),
    ]
    rows += [row("wanda*overlap", 0, ()), row("gradual wanda", 0, ()), row("gradual wanda*overlap", 0, (4,))]
    factors = {entry.mask_by: entry.to_factor for entry in results(rows)}
    assert factors["magnitude*overlap"] == Difference(*([pytest.approx(0.2)] * 3), (0.5,))
    assert factors["gradual wanda*overlap"] == Difference(*([pytest.approx(-0.1)] * 3), (1.0,))
    assert [mask_by for mask_by, difference in factors.items() if difference is None] == [
        "dense",
        "andc",
        "magnitude",
        "wanda*overlap",
        "gradual wanda",
    ]


def test_dense_rows_are_trained_without_masks(dense: CCT, data: LabelledImages, rows: list[Row]) -> None:
    """Before fine-tuning they have the dense model's accuracy."""
    accuracy = evaluate(dense, data).accuracy
    for entry in rows[:2]:
        assert (entry.mask_by, entry.share, entry.kept) == ("dense", 1.0, 1.0)
        assert entry.masked_accuracy == pytest.approx(accuracy)


@given(st.floats(0.0, 1.0), st.integers(1, 20))
def test_shares_of_gradual_masks_fall_to_the_given_share(share: float, stages: int) -> None:
    """Shares start at 1 or below and never rise."""
    shares = falling_shares(share, stages)
    assert len(shares) == stages
    assert shares[-1] == share
    assert all(before >= after for before, after in zip((1.0, *shares), shares, strict=False))


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_last_stage_is_in_force_from_half_of_the_training_on(steps: int) -> None:
    """However few steps there are; stages that have no step of their own are passed over."""
    model, layer = support.random_model(), "classifier.fc"
    weight = model.classifier.fc.weight
    masks = [Masks({layer: torch.arange(weight.numel()).view(weight.shape) < count}) for count in (90, 60, 30)]
    after_step = mask_in_stages(model, [lambda mask=mask: mask for mask in masks], steps)
    kept = [int(weight.count_nonzero())]
    for _ in range(steps):
        after_step()
        kept.append(int(weight.count_nonzero()))
    assert kept[0] == 90
    assert set(kept[max(1, steps // 2) :]) == {30}


def test_mcnemar_looks_at_the_images_that_one_alone_gets_right() -> None:
    """The exact binomial test of 1 of 7 discordant images; what both get wrong does not count."""
    both = list(range(100, 150))
    assert mcnemar([*both, 1], [*both, 2, 3, 4, 5, 6, 7]) == pytest.approx(binomtest(1, 7).pvalue)


def test_models_that_err_alike_do_not_differ() -> None:
    """Without a discordant image the p-value is 1."""
    assert mcnemar([1, 2], [2, 1]) == 1.0


def test_random_masks_differ_between_seeds(dense: CCT, measurements: Measurements, data: LabelledImages) -> None:
    """The seed draws the masks: even without learning, the wrong images differ between seeds."""
    settings = replace(SETTINGS, shares=(0.1,), mask_by=("andc", "random"), seeds=3)
    rows = compare(dense, measurements, data, data, settings, replace(TRAINING, learning_rate=0.0))
    wrong = {entry.wrong for entry in rows if entry.mask_by == "random"}
    assert len(wrong) > 1
