"""Explain beside Classify."""

import json
from pathlib import Path

import explain_latency
import pytest
import support
import timing

RECORD = json.loads((Path(__file__).parents[2] / "results/explain_latency.json").read_text("utf-8"))
SMALL = ("--recipe", "digits", "--rounds", "1", "--threads", "1")


def test_every_batch_has_a_row_as_the_record_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both medians and their ratio, in the keys of results/explain_latency.json."""
    monkeypatch.setattr(explain_latency, "runners", lambda: {"onnxruntime f32": timing.runner("onnxruntime", "f32")})
    printed = json.loads(support.script(explain_latency.main, *SMALL, "--targets", "3", "--json").stdout)
    assert list(printed) == list(RECORD)
    assert [(row["runtime"], row["batch"]) for row in printed["rows"]] == [
        ("onnxruntime f32", 1),
        ("onnxruntime f32", 8),
    ]
    for row in printed["rows"]:
        assert list(row) == list(RECORD["rows"][0])
        assert row["ratio"] == pytest.approx(row["explain_ms"] / row["classify_ms"])  # of one round


def test_maps_are_timed_for_so_many_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the others, in the same rounds; the record says so, and by which clock."""
    monkeypatch.setattr(explain_latency, "runners", lambda: {"onnxruntime f32": timing.runner("onnxruntime", "f32")})
    arguments = (*SMALL, "--targets", "3", "--processor-time")
    printed = json.loads(support.script(explain_latency.main, *arguments, "--json").stdout)
    assert (printed["targets"], printed["clock"]) == (3, "processor")
    for row in printed["rows"]:
        assert row["maps"]["ratio"] == pytest.approx(row["maps"]["maps_ms"] / row["classify_ms"])


def test_table_names_model_and_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader of the terminal needs beside the figures."""
    monkeypatch.setattr(explain_latency, "measure", lambda *arguments: RECORD["rows"])
    shown = support.script(explain_latency.main, *SMALL).stdout
    assert "digits, 1 interleaved rounds, 1 threads" in shown
    assert shown.count("onnxruntime f32") == 2


def test_unknown_recipe_is_refused() -> None:
    """With those that there are."""
    refused = support.script(explain_latency.main, "--recipe", "resnet")
    assert refused.exit_code == 2
    assert "cct_7_3x1" in refused.stderr
