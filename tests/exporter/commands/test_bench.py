"""`exporter bench`: tables for people, JSON for programs, a picture on request."""

import json
from pathlib import Path

import pytest
import support
from headwise.bundle import read_manifest
from headwise_exporter.bench.variants import BenchSettings
from headwise_exporter.export import speed


def test_small_bench_is_shown_and_drawn(bundle: Path, tmp_path: Path) -> None:
    """By one engine, in JSON; the plot is an SVG file."""
    small = ("--engine", "onnxruntime", "--batch", "1", "--threads", "1", "--seconds", "0")
    done = support.exporter("bench", bundle, *small, "--plot", tmp_path / "plot.svg", "--json")
    printed = json.loads(done.stdout)
    assert [variant["model"] for variant in printed["variants"]] == ["dense", "pruned"]
    assert [timed["batch"] for timed in printed["variants"][1]["timings"]] == [1]
    assert printed["peaks"][0]["operations_per_second"] > 0
    assert (tmp_path / "plot.svg").read_text("utf-8").startswith("<?xml")


def test_tables_name_variants_and_what_was_left_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bench that the manifest has; options reach it."""
    asked = []

    def of_manifest(folder: Path, settings: BenchSettings, engines: tuple[str, ...], progress: object) -> object:
        asked.append((settings, engines))
        bench = read_manifest(folder).bench
        bench.left_out.append("pruned, cuda f32: [none]")
        return bench

    monkeypatch.setattr(speed, "bench_bundle", of_manifest)
    shown = support.exporter("bench", bundle, "--batch", "2", "--batch", "4", "--seconds", "1").stdout
    assert asked == [(BenchSettings(batches=(2, 4), seconds=1.0), ())]
    assert "1 thread; rounds by batch 1:" in shown
    assert shown.count("pruned, openvino f32") == 3
    assert "left out: pruned, cuda f32: [none]" in shown


def test_engine_that_is_not_here_is_one_clear_line(bundle: Path) -> None:
    """With what was found in its place."""
    failed = support.exporter("bench", bundle, "--engine", "cuda")
    assert failed.exit_code == 1
    assert "cuda cannot run here: expected CUDAExecutionProvider, found" in " ".join(failed.stderr.split())


def test_plot_must_be_a_kind_that_can_be_drawn(bundle: Path) -> None:
    """Before anything is timed."""
    failed = support.exporter("bench", bundle, "--plot", "plot.gif")
    assert failed.exit_code == 2
    assert "ends in .svg or .png" in " ".join(failed.stderr.replace("│", " ").split())
