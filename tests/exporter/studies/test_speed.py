"""A bench in words: in tables, and on the page about a run."""

from pathlib import Path

import pytest
from headwise.bundle import read_manifest
from headwise.v1.bundle_pb2 import Bench
from headwise_exporter.studies import plots, speed
from headwise_exporter.studies.drawing import save


@pytest.fixture
def bench(bundle: Path) -> Bench:
    """As the bundle has it."""
    return read_manifest(bundle).bench


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "500"), (0.0345, "34.5"), (0.00117, "1.17"), (0.0001234, "0.123"), (2e-5, "0.020")]
)
def test_milliseconds_have_three_digits(seconds: float, words: str) -> None:
    """Never a power of ten."""
    assert speed.milliseconds(seconds) == words


def test_rows_have_a_cell_for_each_column(bench: Bench) -> None:
    """For each batch every variant; the baseline is once as fast as itself."""
    [single] = speed.thread_counts(bench)
    sections = list(speed.timing_rows(bench, single))
    assert [section[0][0] for section in sections] == ["1", "8"]
    for section in sections:
        assert len(section) == len(bench.variants)
        assert {len(row) for row in section} == {len(speed.TIMING_COLUMNS)}
        assert section[0][3] == "1.00 (1.00-1.00)"
    for variant in bench.variants:
        assert len(speed.variant_row(variant)) == len(speed.VARIANT_COLUMNS)


def test_what_is_not_known_is_a_dash(bench: Bench) -> None:
    """Accuracy, memory and share of a peak."""
    variant = bench.variants[0]
    variant.ClearField("validation_accuracy")
    variant.ClearField("peak_memory_bytes")
    variant.timings[0].ClearField("peak_share")
    assert speed.variant_row(variant)[1] == speed.variant_row(variant)[-1] == "-"
    assert speed.timing_row(variant, variant.timings[0])[-1] == "-"


def test_busy_machine_is_said(bench: Bench) -> None:
    """Where the process waited for a core for more than a twentieth of the time."""
    bench.waiting_share = 0.04
    assert speed.remarks(bench) == []
    bench.waiting_share = 0.4
    assert "waited for a core 40 % of the time" in speed.remarks(bench)[0]
    assert speed.section(bench)["remarks"] == speed.remarks(bench)


def test_section_has_machine_peaks_and_every_variant(bench: Bench) -> None:
    """And what was left out."""
    bench.left_out.append("pruned, cuda f32: <none>")
    section = speed.section(bench)
    assert bench.machine.processor in section["machine"]
    assert any(peak.startswith("f32, 1 thread: ") for peak in section["peaks"])
    assert len(section["variants"]) == len(bench.variants)
    assert section["left_out"] == ["pruned, cuda f32: <none>"]


def test_plot_has_a_panel_for_each_batch_and_a_mark_for_each_variant(bench: Bench, tmp_path: Path) -> None:
    """Those without an accuracy are not drawn."""
    bench.variants[-1].ClearField("validation_accuracy")
    drawn = plots.accuracy_by_latency(bench, 1)
    assert [axes.get_title() for axes in drawn.axes] == ["batch 1", "batch 8"]
    _, labels = drawn.axes[0].get_legend_handles_labels()
    assert labels == [speed.variant_title(variant) for variant in bench.variants[:-1]]
    save(drawn, tmp_path / "plot.svg")
    assert "validation accuracy %" in (tmp_path / "plot.svg").read_text("utf-8")
