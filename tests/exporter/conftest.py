"""Fixtures that several files of tests share; a file that defines `data` itself gets measurements on its own images."""

import shutil
from pathlib import Path

import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.nodes.snp import ProbeSettings, measure, train_probes


@pytest.fixture(scope="module")
def dense() -> CCT:
    """A dense model with random weights, not to be changed."""
    return support.random_model()


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    """60 random images, six of each label."""
    return support.random_images(torch.arange(60) % 10)


@pytest.fixture(scope="module")
def measurements(dense: CCT, data: LabelledImages) -> Measurements:
    """Probes of the dense model, trained for an epoch, and its measured nodes, on `data`."""
    probes = train_probes(dense, data, ProbeSettings(epochs=1))
    return Measurements(probes, measure(dense, probes, data))


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, which a test may change."""
    return Path(shutil.copytree(built / "run", tmp_path / "run"))
