"""The augmentation beside a training step."""

import json

import augmentation_cost
import pytest
import support

SMALL = ("--case", "cct_4x128", "--batch", "2", "--rounds", "1")


def test_case_has_its_times_and_shares() -> None:
    """Ours over a step, in each precision that the processor computes in."""
    [row] = json.loads(support.script(augmentation_cost.main, *SMALL, "--json").stdout)["rows"]
    assert (row["case"], row["pixels"], row["batch"]) == ("cct_4x128", 32, 2)
    assert "f32" in row["shares"]
    for kind, share in row["shares"].items():
        assert share["ratio"] == pytest.approx(row["ours_ms"] / row[f"step_{kind}_ms"])  # of one round


def test_table_has_a_line_for_each_time() -> None:
    """With the case before the first."""
    shown = " ".join(support.script(augmentation_cost.main, *SMALL).stdout.split())
    assert "cct_4x128, 32 px, batch 2" in shown
    assert "step f32" in shown


def test_unknown_case_is_refused() -> None:
    """With those that there are."""
    refused = support.script(augmentation_cost.main, "--case", "resnet")
    assert refused.exit_code == 2
    assert "cct_7_7x2" in refused.stderr
