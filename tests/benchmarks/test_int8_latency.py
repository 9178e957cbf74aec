"""Classify by engine and precision."""

import json
from pathlib import Path

import int8_latency
import pytest
import support


def test_every_precision_that_runs_has_a_row_for_each_batch(int8_bundle: Path) -> None:
    """The others are named; ONNX Runtime in float32 is the measure of all."""
    printed = json.loads(support.script(int8_latency.main, int8_bundle, "--rounds", "2", "--json").stdout)
    rows = {(row["engine"], row["precision"], row["batch"]): row for row in printed["rows"]}
    engines = ("onnxruntime", "openvino")
    assert set(rows) >= {(engine, kind, batch) for engine in engines for kind in ("f32", "int8") for batch in (1, 8)}
    assert "onnxruntime bf16" in printed["left_out"]
    assert rows["onnxruntime", "f32", 8]["ratio"] == pytest.approx(1.0)
    assert all(row["ms"] > 0 for row in rows.values())


def test_bundle_without_int8_graphs_says_so(bundle: Path) -> None:
    """Under the table."""
    shown = support.script(int8_latency.main, bundle, "--rounds", "1").stdout
    assert "onnxruntime int8" in shown.partition("not here:")[2]
    assert "digits, 1 interleaved rounds" in shown
