"""What the records say together."""

from typing import Any

import pytest
from summary import (
    Best,
    EncoderAgreement,
    deletion_verdict,
    expert_agreement,
    few_labels,
    label_gains,
    outcome,
)


def result(share: float, mask_by: str, at_once: float, trained: float) -> dict[str, Any]:
    """Of two seeds around these accuracies."""
    moments = {"masked_accuracies": at_once, "accuracies": trained}
    return {"share": share, "mask_by": mask_by, **{name: [mean - 0.25, mean + 0.25] for name, mean in moments.items()}}


def test_best_of_each_side_is_compared() -> None:
    """Permuted masks are on neither side; gradual masks have no accuracy at once."""
    [gains] = label_gains(
        {
            "results": [
                result(1.0, "dense", 0.75, 0.75),
                result(0.5, "andc", 0.5, 0.5),
                result(0.5, "permuted", 0.75, 0.75),
                result(0.5, "magnitude", 0.25, 0.25),
                result(0.5, "wanda", 0.375, 0.25),
                result(0.5, "gradual wanda", 0.75, 0.625),
                result(0.5, "wanda*overlap", 0.625, 0.25),
            ]
        }
    )
    assert gains.share == 0.5
    assert (gains.at_once.label_blind, gains.at_once.by_snps) == (Best("wanda", 0.375), Best("wanda*overlap", 0.625))
    assert (gains.trained.label_blind, gains.trained.by_snps) == (Best("gradual wanda", 0.625), Best("andc", 0.5))
    assert (gains.at_once.gain, gains.trained.gain) == (0.25, -0.125)


def test_without_masks_that_know_no_label_there_is_no_gain() -> None:
    """Nothing is concluded from nothing."""
    assert label_gains({"results": [result(0.5, "andc", 0.5, 0.5), result(0.5, "permuted", 0.25, 0.25)]}) == []


def test_few_labels_are_those_of_the_smallest_share() -> None:
    """Where the criteria differ most."""
    results = [
        {"criterion": criterion, "share": share, "accuracy": share + place / 16}
        for place, criterion in enumerate(("random", "magnitude", "taylor", "snp", "contrast"))
        for share in (0.5, 0.25)
    ]
    settings = {"shares": [0.5, 0.25]}
    assert few_labels({"settings": settings, "results": results, "dense_accuracy": 0.75}) == {
        "share": 0.25,
        "all_nodes": 0.75,
        "snp": 0.4375,
        "taylor": 0.375,
        "magnitude": 0.3125,
        "random": 0.25,
    }


def test_agreement_is_a_mean_over_pairs_that_share_labels() -> None:
    """Encoder by encoder, whatever the order of the rows."""
    rows = [
        {"encoder": encoder, "agreement": agreement, "by_chance": 0.25, "p_value": p_value}
        for agreement, p_value in ((0.5, 0.04), (0.75, 0.2))
        for encoder in (1, 0)
    ]
    assert expert_agreement({"rows": [*rows, {"encoder": 0}]}) == [
        EncoderAgreement(0, 0.625, 0.25, 2, 1),
        EncoderAgreement(1, 0.625, 0.25, 2, 1),
    ]


@pytest.mark.parametrize(
    ("mean", "p_value", "words"),
    [(0.1, 0.01, "better than"), (-0.1, 0.01, "worse than"), (5.0, 0.05, "not shown to differ from")],
)
def test_outcome_goes_by_the_adjusted_p_value(mean: float, p_value: float, words: str) -> None:
    """However large the difference is."""
    assert outcome({"mean": mean, "p_value": p_value}) == words


def test_deletion_verdict_names_both_baselines_with_their_means() -> None:
    """Of the fall under the first way to remove patches."""
    rows = [
        {"method": "maps", "fall": {"mean": 0.83, "to_centre": {"mean": -0.4, "p_value": 0.0004}}},
        {"method": "centre of the photo", "fall": {"mean": 1.27}},
        {"method": "random", "fall": {"mean": 0.54}},
    ]
    rows[0]["fall"]["to_random"] = {"mean": 0.29, "p_value": 0.02}
    verdict = deletion_verdict({"tables": [{"rows": rows}, {"rows": []}]}, "maps")
    assert verdict == "maps 0.83: better than random patches (0.54, p 0.020), worse than the centre (1.27, p <0.001)"
