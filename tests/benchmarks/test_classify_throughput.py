"""The pruned model of a bundle beside a dense one of its sizes."""

import json
import shutil
from pathlib import Path

import classify_throughput
import pytest
import support
from headwise.bundle import read_manifest

RECORD = json.loads((Path(__file__).parents[2] / "results/digits/classify_throughput.json").read_text("utf-8"))
SMALL = ("--batch", "2", "--rounds", "1", "--threads", "1")


def test_figures_are_those_of_the_record(bundle: Path) -> None:
    """In the keys of results/digits/classify_throughput.json; the ratio is that of the rates."""
    printed = json.loads(support.script(classify_throughput.main, bundle, *SMALL, "--json").stdout)
    assert list(printed) == list(RECORD)
    assert printed["ratio"] == pytest.approx(
        printed["pruned_images_per_second"] / printed["dense_images_per_second"]
    )  # of one round
    metrics = read_manifest(bundle).metrics
    assert printed["macs_share"] == metrics.macs_pruned / metrics.macs_dense


def test_table_names_the_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how it was timed."""
    monkeypatch.setattr(classify_throughput, "measure", lambda *arguments: RECORD)
    shown = support.script(classify_throughput.main, bundle, *SMALL).stdout
    assert "digits version 1, ONNX Runtime, batch 2, 1 threads, 1 interleaved rounds" in " ".join(shown.split())


def test_damaged_bundle_is_not_timed(bundle: Path, tmp_path: Path) -> None:
    """What fails is named."""
    shutil.copytree(bundle, tmp_path / "1")
    (tmp_path / "1/golden.npz").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match="does not verify: files"):
        classify_throughput.main(tmp_path / "1")
