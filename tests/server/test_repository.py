"""Bundles are verified before they are served."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headwise.bundle import BundleError, file_sha256, read_manifest, write_manifest
from headwise_server.engines import Engine, EngineError, Outputs, Precision, create
from headwise_server.errors import NotFound
from headwise_server.repository import Models, RepositoryError, find, load_all, resolve


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository to change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


def load(repository: Path, engine: Engine | None = None, precision: str = "f32") -> Models:
    """All models of a repository, on ONNX Runtime unless another engine is given."""
    return load_all(repository, engine or create("onnxruntime"), precision, streams=1)


class Biased:
    """A session that runs the real one and then adds to one output, as a miscompiled engine might."""

    def __init__(self, path: Path, precision: Precision, streams: int, error: float) -> None:
        self.inner = create("onnxruntime").open_session(path, "f32", streams)
        self.precision, self.error = precision, error

    def run(self, images_NYXC: np.ndarray) -> Outputs:
        """The real outputs with an error in the first label of every image."""
        outputs = self.inner.run(images_NYXC)
        outputs["logits"] = outputs["logits"] + self.error * np.eye(10, dtype=np.float32)[0]
        return outputs


def biased_engine(full: float, reduced: float) -> Engine:
    """An engine with an error in float32 and another in bf16."""
    return Engine(
        "biased",
        lambda path, precision, streams: Biased(path, precision, streams, full if precision == "f32" else reduced),
        lambda: "bf16",
    )


def test_bundle_is_loaded_by_name_and_version(repository: Path, bundle: Path) -> None:
    """A model says which files it is: the sha256 of its manifest."""
    models = load(repository)
    served = models["digits"][1].served(models["digits"][1].classify)
    assert (served.name, served.version, served.engine, served.precision) == ("digits", "1", "onnxruntime", "f32")
    assert served.sha256 == file_sha256(bundle / "manifest.json")


def test_newest_version_is_the_default(copy: Path) -> None:
    """By number, not by spelling: 10 is newer than 9."""
    for version in ("9", "10"):
        folder = Path(shutil.copytree(copy / "digits" / "1", copy / "digits" / version))
        manifest = read_manifest(folder)
        manifest.version = version
        write_manifest(manifest, folder)
    models = load(copy)
    assert sorted(models["digits"]) == [1, 9, 10]
    assert resolve(models, "digits", "").manifest.version == "10"
    assert resolve(models, "", "9").manifest.version == "9"


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [("flowers", "", "flowers"), ("digits", "2", "digits"), ("digits", "one", "one")],
)
def test_unknown_model_or_version_says_what_is_served(repository: Path, name: str, version: str, message: str) -> None:
    """The error names what was asked for and what there is."""
    with pytest.raises(NotFound, match=message) as caught:
        resolve(load(repository), name, version)
    assert "digits" in str(caught.value)


def test_model_must_be_named_where_there_are_several(copy: Path) -> None:
    """With two models an empty name is refused, naming both."""
    folder = Path(shutil.copytree(copy / "digits", copy / "other")) / "1"
    manifest = read_manifest(folder)
    manifest.name = "other"
    write_manifest(manifest, folder)
    with pytest.raises(NotFound, match=r"digits.*other"):
        resolve(load(copy), "", "")


def test_empty_repository_says_what_to_do(tmp_path: Path) -> None:
    """No folder, and a folder without a bundle."""
    with pytest.raises(RepositoryError, match=r"expected a model repository at .*, found no such folder"):
        find(tmp_path / "none")
    with pytest.raises(RepositoryError, match=r"holds no bundle: .*Make one with `exporter build --dataset digits"):
        find(tmp_path)


def test_unfinished_folders_are_not_seen(copy: Path) -> None:
    """What an exporter is still writing begins with a dot."""
    shutil.copytree(copy / "digits" / "1", copy / "digits" / ".2.123.partial")
    assert [folder.name for folder in find(copy)] == ["1"]


@pytest.mark.parametrize("name", ["classify.onnx", "explain.onnx", "weights.bin", "golden.npz"])
def test_flipped_byte_is_not_served(copy: Path, name: str) -> None:
    """One altered byte in any file: refused, the file named."""
    path = copy / "digits" / "1" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: its sha256 is not the one in the manifest"):
        load(copy)


def test_missing_file_is_not_served(copy: Path) -> None:
    """A bundle that was copied in part: refused, the file named."""
    (copy / "digits" / "1" / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: missing"):
        load(copy)


def test_newer_manifest_is_not_served(copy: Path) -> None:
    """A bundle of a later release: refused by its version."""
    folder = copy / "digits" / "1"
    manifest = read_manifest(folder)
    manifest.format_version = 99
    write_manifest(manifest, folder)
    with pytest.raises(BundleError, match="format version 99"):
        load(copy)


def test_bundle_in_the_wrong_folder_is_not_served(copy: Path) -> None:
    """Name and version of the manifest must be those of the folders, or a reply would name another model."""
    (copy / "digits" / "1").rename(copy / "digits" / "7")
    with pytest.raises(BundleError, match="says that it is digits version 1"):
        load(copy)


def test_version_that_is_no_number_is_not_served(copy: Path) -> None:
    """Versions are compared as numbers."""
    folder = (copy / "digits" / "1").rename(copy / "digits" / "final")
    manifest = read_manifest(folder)
    manifest.version = "final"
    write_manifest(manifest, folder)
    with pytest.raises(BundleError, match="expected a positive integer as version, found 'final'"):
        load(copy)


def test_engine_that_computes_something_else_is_not_served(repository: Path) -> None:
    """Whole files are not enough: this machine's engine must give the golden outputs."""
    with pytest.raises(EngineError, match=r"golden set differs by 0.01, tolerance 0.0001"):
        load(repository, biased_engine(full=0.01, reduced=0.0))


def test_reduced_precision_that_fails_is_not_used_and_the_log_says_so(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Classify runs in f32 where bf16 misses the golden set; Explain is always f32."""
    with caplog.at_level(logging.WARNING):
        model = load(repository, biased_engine(full=0.0, reduced=9.0), "auto")["digits"][1]
    assert (model.classify.precision, model.explain.precision) == ("f32", "f32")
    assert "Classify runs in f32" in caplog.text


def test_reduced_precision_must_keep_every_first_label(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Within tolerance is not enough if a golden image changes its label."""
    with np.load(repository / "digits" / "1" / "golden.npz") as file:
        logits = file["logits"]
    gap = float((logits.max(1) - logits[:, 0])[logits.argmax(1) != 0].min()) + 1e-3
    tolerance = read_manifest(repository / "digits" / "1").golden_tolerance_reduced
    assert gap < tolerance, "no golden image is close enough to the first label for this test"
    with caplog.at_level(logging.WARNING):
        model = load(repository, biased_engine(full=0.0, reduced=gap), "auto")["digits"][1]
    assert model.classify.precision == "f32"
    assert "change their first label" in caplog.text


def test_reduced_precision_that_passes_is_used_for_classify_alone(repository: Path) -> None:
    """bf16 for Classify, f32 for Explain, whose tolerance is beyond bf16; f32 for both where it is asked for."""
    engine = biased_engine(full=0.0, reduced=0.0)
    model = load(repository, engine, "auto")["digits"][1]
    assert (model.classify.precision, model.explain.precision) == ("bf16", "f32")
    assert load(repository, engine, "f32")["digits"][1].classify.precision == "f32"
    assert (
        load(repository, replace(engine, reduced_precision=lambda: None), "auto")["digits"][1].classify.precision
        == "f32"
    )
