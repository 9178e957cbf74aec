"""Verdicts on the claims."""

from typing import Any

import hypothesis.strategies as st
import pytest
from headwise_exporter.nodes.summary import ANY_THRESHOLD, THRESHOLDS
from headwise_exporter.studies.verdicts import (
    MaskOutcome,
    better_masks,
    expert_heads,
    few_labels,
    free_pruning,
    holm,
    outcomes,
    sharpening,
)
from hypothesis import given


def spread(value: float) -> dict[str, float]:
    """An interval that is a tenth wide."""
    return {"low": value - 0.05, "high": value + 0.05, "bias": 0.0}


def tap(
    encoder: int | None, kind: str, snr: float | None, recognised: float = 2.0, free: float | None = None
) -> dict[str, Any]:
    """A tap point; the ratio is the same at every threshold, and without one unless another is given."""
    ratios = {"snr": snr, ANY_THRESHOLD: snr if free is None else free}
    known = {name: spread(value) for name, value in ratios.items() if value is not None}
    if snr is not None:
        known |= {f"snr_{threshold}": spread(snr) for threshold in THRESHOLDS}
    figures = {**ratios, "clusters_per_node": recognised, "cluster_size": 1.0, "noise_per_node": 1.0}
    return {"encoder": encoder, "kind": kind, "figures": figures, "uncertainties": known}


def findings(
    first: float | None, last: float | None, recognised: float = 2.0, free: float | None = None
) -> dict[str, Any]:
    """Two encoders, 20 labels, the same ratios at every kind of tap point."""
    kinds = ("heads", "feed_forward_hidden", "feed_forward_out")
    ratios = (first, last)
    taps = [
        tap(encoder, kind, ratios[encoder], recognised, free if encoder else None)
        for encoder in (0, 1)
        for kind in kinds
    ]
    return {"tap_points": [*taps, tap(None, "classifier_head", None)], "heads": [{"expert_K": [0] * 20}]}


FLAT = {"untrained": findings(1.2, 1.2), "untrained_again": findings(1.2, 1.2), "exchanged": findings(1.0, 1.0)}


def heads(*p_values: list[float]) -> dict[str, Any]:
    """Heads of one encoder for each list of p-values."""
    return {
        "heads": [
            {
                "encoder": index,
                "p_value_H": values,
                "sharpness_H": [0.5] * len(values),
                "null_mean_H": [0.2] * len(values),
                "halves": {"agreement": 0.9, "by_chance": 0.25} if index else None,
                "seeds": [{"agreement": 0.8, "by_chance": 0.3}] * 2 if index else [],
            }
            for index, values in enumerate(p_values)
        ]
    }


CHANCE = {"untrained": heads([0.9] * 4)}


def result(
    share: float, mask_by: str, accuracy: float, andc: float, p_value: float = 0.001, factor: float | None = None
) -> dict[str, Any]:
    """A result of two equal seeds; the dense model has accuracy 0.9."""

    def difference(to: float) -> dict[str, Any]:
        gap = accuracy - to
        return {"mean": gap, "lowest": gap, "highest": gap, "p_values": [p_value, p_value / 2]}

    return {
        "share": share,
        "kept": share,
        "mask_by": mask_by,
        "accuracies": [accuracy] * 2,
        "masked_accuracies": [accuracy - (0.1 if "overlap" in mask_by else 0.3)] * 2,
        "to_dense": difference(0.9),
        "to_andc": difference(andc) if mask_by != "dense" else None,
        "to_factor": None if factor is None else difference(factor),
    }


def comparison(andc: float, **others: float) -> dict[str, Any]:
    """A comparison at a quarter of the connections."""
    rows = [result(1.0, "dense", 0.9, 0.0), result(0.25, "andc", andc, andc)]
    factors = {mask_by: others[mask_by.split("*")[0]] for mask_by in others if "*" in mask_by}
    rows += [result(0.25, name, accuracy, andc, factor=factors.get(name)) for name, accuracy in others.items()]
    return {"results": rows}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(1.5, 2.0, "holds"), (1.5, 1.55, "does not hold here"), (2.0, 1.5, "does not hold here"), (1.5, None, "holds")],
)
def test_ratio_must_rise_beyond_both_intervals(first: float, last: float | None, expected: str) -> None:
    """From the first encoder to the last; no noise at all is above any ratio."""
    assert sharpening(findings(first, last), FLAT).finding == expected


def test_ratio_must_rise_without_a_threshold_as_well() -> None:
    """A rise at one threshold alone may be the threshold's."""
    assert sharpening(findings(1.5, 2.0, free=1.5), FLAT).finding == "does not hold here"


def test_ratio_must_rise_more_than_that_of_a_control() -> None:
    """Twice as much; a smaller rise of theirs is no objection."""
    rising = FLAT | {"untrained": findings(1.2, 1.35)}
    assert sharpening(findings(1.5, 2.0), rising).finding == "does not hold here"
    assert sharpening(findings(1.5, 3.0), rising).finding == "holds"


def test_ratio_that_rises_for_some_kinds_holds_in_part() -> None:
    """One of three kinds is enough for that."""
    record = findings(2.0, 1.5)
    record["tap_points"][3] = tap(1, "heads", 3.0)
    assert sharpening(record, FLAT).finding == "holds in part"


def test_thresholds_at_which_the_ratio_rises_and_falls_are_named() -> None:
    """By intervals that are apart; the others are not."""
    record = findings(1.5, 1.5)
    record["tap_points"][3]["uncertainties"] |= {"snr_0.1": spread(2.0), "snr_0.8": spread(1.1)}
    assert "it rises at 0.1 and falls at 0.8." in sharpening(record, FLAT).numbers[0]
    assert "it neither rises nor falls at any." in sharpening(record, FLAT).numbers[1]


@pytest.mark.parametrize(
    ("ratio", "recognised", "expected"),
    [(2.0, 5.0, "holds"), (2.0, 5.1, "does not hold here"), (1.5, 2.0, "does not hold here")],
)
def test_few_labels_are_a_quarter_and_told_apart_twice_as_well(ratio: float, recognised: float, expected: str) -> None:
    """Of 20 labels five; untrained the ratio is 1.25 at most, so 1.5 is wanted of the lower end."""
    assert few_labels(findings(ratio, ratio, recognised), FLAT).finding == expected


def test_controls_are_judged_by_the_same_rule() -> None:
    """Each against the others; their verdicts stand beside the model's."""
    verdict = few_labels(findings(2.0, 2.0), FLAT)
    nothing = "does not hold here"
    assert verdict.controls == {"untrained": nothing, "untrained again": nothing, "labels exchanged": nothing}


def test_claim_that_holds_for_a_control_as_well_does_not_hold() -> None:
    """However well the trained model does; the reason is given."""
    verdict = expert_heads(heads([0.001] * 4), CHANCE | {"exchanged": heads([0.001] * 4)})
    assert (verdict.finding, verdict.controls["labels exchanged"]) == ("does not hold here", "holds")
    assert verdict.numbers[-1] == "By these bars it holds, and for a control as well (labels exchanged)."
    partly = CHANCE | {"exchanged": heads([0.001, 0.001, 0.9, 0.9])}
    assert expert_heads(heads([0.001] * 4), partly).finding == "holds"


def test_without_controls_there_is_no_verdict() -> None:
    """A bar that nothing can fail decides nothing."""
    record = findings(1.0, 9.0) | heads([0.001] * 4)
    for verdict in (few_labels(record, None), sharpening(record, None), expert_heads(record, None)):
        assert verdict.finding == "not tested"
        assert "exporter measure --controls" in verdict.numbers[0]


@pytest.mark.parametrize(("andc", "expected"), [(0.9, "holds"), (0.896, "holds"), (0.894, "does not hold here")])
def test_pruning_is_free_within_half_a_point(andc: float, expected: str) -> None:
    """Against the dense model after the same training."""
    assert free_pruning(comparison(andc)).finding == expected


def test_pruning_that_was_not_compared_is_not_tested() -> None:
    """Without a comparison there is neither a verdict nor an outcome."""
    assert free_pruning(None).finding == "not tested"
    assert outcomes(None) == []


def test_better_control_is_named_beside_the_verdict_and_first_on_the_page() -> None:
    """Masks that beat ANDC do not change what pruning costs, and are not hidden."""
    record = comparison(0.9, magnitude=0.91, random=0.8)
    assert free_pruning(record).finding == "holds"
    assert "Better than ANDC at 25%, points: `magnitude` +1.00." in free_pruning(record).numbers
    assert any("beats `random` masks in every seed at p < 0.05 at 25%" in line for line in free_pruning(record).numbers)
    assert outcomes(record) == [MaskOutcome(0.25, "magnitude", "loses"), MaskOutcome(0.25, "random", "wins")]


def test_product_is_set_beside_its_factor() -> None:
    """Sentences show where overlap helps a label-blind score and where it hurts; without a product there is none."""
    record = comparison(0.9, **{"magnitude": 0.8, "magnitude*overlap": 0.85, "wanda": 0.8, "wanda*overlap": 0.79})
    sentences = free_pruning(record).numbers
    for line in (
        "`magnitude*overlap` minus `magnitude`, points: +5.00* at 25%",
        "`wanda*overlap` minus `wanda`, points: -1.00*",
    ):
        assert any(sentence.startswith(line) for sentence in sentences)
    assert [sentence.split("; ")[1] for sentence in sentences if "minus" in sentence] == [
        "before any training +25.00.",
        "before any training +19.00.",
    ]
    assert not any("overlap" in sentence for sentence in free_pruning(comparison(0.9, magnitude=0.8)).numbers)


def test_difference_that_may_be_chance_is_no_advantage() -> None:
    """The p-value must be small in every seed."""
    results = [result(0.25, "magnitude", 0.95, 0.9, p_value=0.2)]
    assert better_masks(results) == {}
    assert outcomes({"results": results}) == [MaskOutcome(0.25, "magnitude", "ties")]
    assert better_masks([result(0.25, "magnitude", 0.95, 0.9)]) == {0.25: {"magnitude": pytest.approx(0.05)}}


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [([0.001] * 3 + [0.9], "holds"), ([0.001] * 2 + [0.9] * 2, "holds in part"), ([0.04] * 4, "does not hold here")],
)
def test_heads_are_counted_after_holms_correction(p_values: list[float], expected: str) -> None:
    """Four heads at 0.04 are none."""
    assert expert_heads(heads(p_values), CHANCE).finding == expected


def test_numbers_have_halves_and_other_probes_where_they_were_measured() -> None:
    """The sentence about an encoder without them leaves them out."""
    first, second = expert_heads(heads([0.001], [0.001]), CHANCE).numbers[1:]
    assert "halves" not in first
    assert "probes" not in first
    assert "90% of the labels (25% by chance)" in second
    assert "the same expert for 80% (30% by chance), 80% (30% by chance)." in second


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_the_smallest_and_no_more_than_without_correction(p_values: list[float]) -> None:
    """Rejected are below 0.05, all below 0.05 / n are rejected, and none is larger than one that is kept."""
    rejected = holm(p_values)
    for p_value, is_rejected in zip(p_values, rejected, strict=True):
        assert p_value <= 0.05 or not is_rejected
        assert is_rejected or p_value > 0.05 / len(p_values)
    largest = max((p for p, out in zip(p_values, rejected, strict=True) if out), default=0.0)
    smallest = min((p for p, out in zip(p_values, rejected, strict=True) if not out), default=1.0)
    assert largest <= smallest
