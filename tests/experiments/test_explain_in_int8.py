"""Explain in int8 beside float32."""

import json
from pathlib import Path

import explain_in_int8
import numpy as np
import support

RECORD = json.loads((Path(__file__).parents[2] / "results/cifar100/explain_in_int8.json").read_text("utf-8"))


def test_residuals_and_ranks_are_recorded(built: Path, tmp_path: Path) -> None:
    """In the keys of results/cifar100/explain_in_int8.json; the float32 parts add up, those in int8 do not."""
    bundle = built / "models" / "digits" / "1"
    small = ("--images", "60", "--results", tmp_path)
    done = support.script(explain_in_int8.main, built / "run", bundle, "digits", *small)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "digits/explain_in_int8.json").read_text("utf-8"))
    assert list(record) == list(RECORD)
    assert record["images"] == 60
    assert record["largest_residual_float"] <= record["tolerance"] < record["median_residual_int8"]
    assert -1 <= record["lowest_tenth_rank_correlation"] <= record["median_rank_correlation"] <= 1


def test_same_outputs_rank_alike() -> None:
    """A graph compared with itself: correlation 1, and the first head stays."""
    generator = np.random.default_rng(0)
    outputs = {name: generator.normal(size=(3, 5)) for name in ("logits", "embedding", "biases")}
    outputs |= {name: generator.normal(size=(3, 4, 5)) for name in ("heads", "feed_forwards")}
    figures = explain_in_int8.compare(outputs, outputs)
    np.testing.assert_allclose(figures["rank_correlation"], 1.0)
    assert figures["first_head_stays"].all()
    opposite = outputs | {"heads": -outputs["heads"]}
    np.testing.assert_allclose(explain_in_int8.compare(outputs, opposite)["rank_correlation"], -1.0)
