"""Accuracy against measured speed along a search."""

import json
from pathlib import Path

import pruning_curve
import support
from headwise_exporter.stages.trials import trials_of


def test_every_candidate_is_timed_on_every_engine_beside_the_dense_model(built: Path, tmp_path: Path) -> None:
    """In float32 and int8, the dense model in float32 first, which is what all others are compared with."""
    arguments = (built / "run", "digits", "--seconds", "1", "--threads", "1", "--results", tmp_path)
    done = support.script(pruning_curve.main, *arguments)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "digits/pruning_curve.json").read_text("utf-8"))
    rows, models = record["rows"], 1 + len(trials_of(built / "run"))
    assert models > 1
    kinds = {(row["engine"], row["precision"]) for row in rows}
    assert kinds == {(engine, precision) for engine in ("onnxruntime", "openvino") for precision in ("f32", "int8")}
    assert len(rows) == models * len(kinds)
    assert [timing["speedup"] for timing in rows[0]["timings"]] == [1.0, 1.0]
    assert (rows[0]["model"], rows[0]["difference"]) == ("dense", 0.0)
    for row in rows[1:]:
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert f"{100 * row['accuracy']:.2f}" in done.stdout
    assert (tmp_path / "digits/pruning_curve.svg").is_file()
