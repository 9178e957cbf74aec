"""Variants are timed against the first, and none that runs as something else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from headwise_exporter.bench import variants
from headwise_exporter.bench.fresh import Footprint
from headwise_exporter.bench.sessions import SessionError
from headwise_exporter.bench.variants import BenchSettings, Candidate, bench, graph_bytes, timing
from support import Bars

SHAPE = (8, 8, 1)
SETTINGS = BenchSettings(batches=(1, 3), threads=(1,), seconds=0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the processes and the products, which have tests of their own."""
    monkeypatch.setattr(variants, "footprint", lambda *arguments: Footprint(0.5, 1024))
    monkeypatch.setattr(variants, "fastest", lambda engines, *others: (engines[0], 1e9))


@pytest.fixture
def candidate(bundle: Path) -> Candidate:
    """The bundle's graph, as the baseline."""
    return Candidate("dense", bundle / "classify.onnx", "", "onnxruntime", "f32", 1e6, lambda run: 0.5, required=True)


def test_every_variant_has_a_timing_for_each_batch(candidate: Candidate) -> None:
    """The baseline is as fast as itself; shares are of the peak; the machine is described; a bar counts."""
    bars = Bars()
    other = replace(candidate, model="pruned", path="classify.onnx", engine="openvino", required=False)
    result = bench([candidate, other], SHAPE, SETTINGS, bars.open)
    assert [variant.engine for variant in result.variants] == ["onnxruntime", "openvino"]
    for variant in result.variants:
        assert [(timed.threads, timed.batch, timed.rounds) for timed in variant.timings] == [(1, 1, 9), (1, 3, 9)]
        for timed in variant.timings:
            assert timed.seconds_quartile_low <= timed.seconds <= timed.seconds_quartile_high
            assert timed.speedup_interval.low <= timed.speedup <= timed.speedup_interval.high
            assert timed.peak_share == pytest.approx(2e6 * timed.batch / timed.seconds / 1e9)
    assert {timed.speedup for timed in result.variants[0].timings} == {1.0}
    assert result.variants[0].validation_accuracy == 0.5
    assert result.variants[0].peak_memory_bytes == 1024
    assert result.machine.cores >= 1
    assert 0 <= result.waiting_share <= 1
    assert (bars[0].done, bars[0].total) == (5, 5)


def test_variant_in_another_type_is_left_out_with_the_reason(candidate: Candidate) -> None:
    """A float graph that is said to be int8."""
    wrong = replace(candidate, precision="int8", required=False)
    result = bench([candidate, wrong], SHAPE, SETTINGS)
    assert len(result.variants) == 1
    [reason] = result.left_out
    assert reason.startswith("dense, onnxruntime int8: expected the matrix products and convolutions")


def test_variant_in_another_type_is_an_error_where_it_was_asked_for(candidate: Candidate) -> None:
    """Nothing is timed in its place."""
    with pytest.raises(SessionError, match="run in int8 on onnxruntime"):
        bench([candidate, replace(candidate, precision="int8")], SHAPE, SETTINGS)


def test_wrong_answers_are_not_timed(candidate: Candidate) -> None:
    """What checks the answers says why."""

    def refuse(run: object) -> float | None:
        raise SessionError("expected the golden set")

    result = bench([candidate, replace(candidate, accuracy=refuse, required=False)], SHAPE, SETTINGS)
    assert list(result.left_out) == ["dense, onnxruntime f32: expected the golden set"]


def test_speedup_is_the_median_of_ratios_in_the_same_round() -> None:
    """Not the ratio of medians, which slow rounds would spoil."""
    times = np.array([[2.0, 1.0], [20.0, 5.0], [3.0, 1.0]])
    timed = timing(times, 1, threads=2, batch=8)
    assert (timed.speedup, timed.seconds, timed.rounds, timed.threads, timed.batch) == (3.0, 1.0, 3, 2, 8)


def test_size_counts_the_weights_that_a_graph_refers_to(bundle: Path, tmp_path: Path) -> None:
    """Of the file that both graphs share only this one's part."""
    model = onnx.load(bundle / "classify.onnx")
    onnx.save_model(model, tmp_path / "whole.onnx", save_as_external_data=False)
    whole, parts = (tmp_path / "whole.onnx").stat().st_size, graph_bytes(bundle / "classify.onnx")
    assert parts == pytest.approx(whole, rel=0.2)
    assert parts < (bundle / "classify.onnx").stat().st_size + (bundle / "weights.bin").stat().st_size
