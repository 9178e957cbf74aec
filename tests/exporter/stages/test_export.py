"""What a bundle is made from."""

from pathlib import Path

import pytest
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.model.checkpoints import CheckpointError
from headwise_exporter.stages.export import bundle_contents
from headwise_exporter.stages.run import RunError


def test_exporting_an_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    """An empty run is an error that names the first file that is not there."""
    with pytest.raises(CheckpointError, match=r"expected model at .*dense.safetensors, found no such file"):
        bundle_contents(tmp_path, load(DatasetSettings("digits")))


def test_run_without_a_report_is_not_exported(run: Path) -> None:
    """Every bundle has the page of its run."""
    (run / "report/report.html").unlink()
    with pytest.raises(RunError, match="Run `exporter report` first"):
        bundle_contents(run, load(DatasetSettings("digits")))
