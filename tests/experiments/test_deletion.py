"""The deletion test as a whole, on a trained run."""

import json
from pathlib import Path

import numpy as np
import pytest
import support
from scipy.stats import ttest_rel

pytest.importorskip("captum", reason="the methods of others are Captum's: pip install captum==0.9.0")
import deletion
from token_scores import CENTRE, METHODS, RANDOM


def test_every_method_is_recorded_with_its_cost_and_both_comparisons(built: Path, tmp_path: Path) -> None:
    """Three measures of the first way to remove patches, the logit of the others; a figure beside."""
    arguments = (built / "run", "digits", "--images", "6", "--fewer", "4", "--orders", "2", "--results", tmp_path)
    done = support.script(deletion.main, *arguments)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "digits/deletion.json").read_text("utf-8"))
    assert (record["images"], record["tokens_a_side"], record["stride_pixels"]) == (6, 4, 2)
    assert [cost["method"] for cost in record["methods"]] == [*METHODS]
    for cost in record["methods"]:
        assert (cost["seconds"] > 0) == (cost["forward"] > 0)
    kinds = [(table["patches"], table["fill"], table["measure"], table["images"]) for table in record["tables"]]
    first = [("tiles", "mean", measure, 6) for measure in ("logit", "logit_less_mean", "probability")]
    assert kinds == [*first, ("tiles", "blurred", "logit", 4), ("centred", "mean", "logit", 4)]
    for table in record["tables"]:
        assert [row["method"] for row in table["rows"]] == [*METHODS]
        for row in table["rows"]:
            fall = row["fall"]
            assert fall["low"] <= fall["mean"] <= fall["high"]
            assert fall["mean"] == pytest.approx(row["falls"][record["shares"].index(3 / 16)])
            assert ("to_centre" in fall, "to_random" in fall) == (row["method"] != CENTRE, row["method"] != RANDOM)
            assert ("insertion_area" in row) == (table in record["tables"][:3])
    assert (tmp_path / "digits/deletion.svg").is_file()


def test_differences_are_paired_and_their_p_values_adjusted_together() -> None:
    """A method that is better on every image by the same has no spread, though the images differ."""
    generator = np.random.default_rng(0)
    image_N = generator.normal(0, 10, 40)
    quantity_MN = image_N + generator.normal(0, 0.1, (len(METHODS), 40))
    quantity_MN[METHODS.index(CENTRE)] = image_N
    quantity_MN[0] = image_N + 0.2 + generator.normal(0, 0.1, 40)
    rows = deletion.compared(quantity_MN)
    better = rows[0]["to_centre"]
    assert 0.1 < better["low"] < better["mean"] < better["high"] < 0.3
    unadjusted = ttest_rel(quantity_MN[0], image_N).pvalue
    assert better["p_value"] == pytest.approx(unadjusted * (2 * len(METHODS) - 2))
    assert rows[0]["high"] - rows[0]["low"] > 4
    assert rows[METHODS.index(CENTRE)].keys() == {"mean", "low", "high", "to_random"}
