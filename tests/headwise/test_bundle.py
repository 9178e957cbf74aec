"""The manifest of a bundle, as exporter and server read it."""

from pathlib import Path

import numpy as np
import pytest
from headwise.bundle import (
    FORMAT_VERSION,
    BundleError,
    check_files,
    completeness_residuals,
    file_sha256,
    golden_differences,
    read_golden_set,
    read_manifest,
    write_manifest,
)
from headwise.v1.bundle_pb2 import Bundle, File


def files_of(folder: Path, *paths: str) -> list[File]:
    """Entries for files that are there."""
    return [File(path=p, sha256=file_sha256(folder / p), size_bytes=(folder / p).stat().st_size) for p in paths]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the required files, a few bytes each."""
    for name in ("classify.onnx", "explain.onnx", "golden.npz"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_manifest_survives_writing_and_reading(folder: Path) -> None:
    """What was written comes back equal."""
    written = Bundle(format_version=FORMAT_VERSION, name="x", labels=["a", "b"])
    written.metrics.pruned_accuracy = 0.5
    write_manifest(written, folder)
    assert read_manifest(folder) == written


def test_unknown_fields_of_the_same_version_are_ignored(folder: Path) -> None:
    """A later release may add fields without a new version."""
    (folder / "manifest.json").write_text(f'{{"format_version": {FORMAT_VERSION}, "name": "x", "added_later": 3}}')
    assert read_manifest(folder).name == "x"


def test_whole_files_pass(folder: Path) -> None:
    """Right sizes and hashes raise nothing."""
    check_files(folder, Bundle(files=files_of(folder, "classify.onnx", "explain.onnx", "golden.npz")))


def test_all_problems_are_named_at_once(folder: Path) -> None:
    """Missing, resized and altered files and one that is not listed, in one error."""
    bundle = Bundle(files=files_of(folder, "classify.onnx", "explain.onnx"))
    bundle.files.append(File(path="gone.bin", size_bytes=1))
    (folder / "classify.onnx").write_bytes(b"longer than before")
    (folder / "explain.onnx").write_bytes(b"explain.ONNX")
    with pytest.raises(BundleError) as caught:
        check_files(folder, bundle)
    for problem in (
        "classify.onnx: expected 13 bytes, found 18",
        "explain.onnx: its sha256 is not the one in the manifest",
        "gone.bin: missing",
        "golden.npz: not listed in the manifest",
    ):
        assert problem in str(caught.value)


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/weights.bin", "a/../../x"])
def test_path_out_of_the_bundle_is_refused(folder: Path, path: str) -> None:
    """A manifest cannot make a reader look outside its folder."""
    with pytest.raises(BundleError, match="expected a path inside the bundle"):
        check_files(folder, Bundle(files=[File(path=path)]))


def test_hash_is_sha256(folder: Path) -> None:
    """Of the empty file, the published value."""
    (folder / "empty").write_bytes(b"")
    assert file_sha256(folder / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_golden_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Inputs and outputs by name."""
    arrays = {"images": np.zeros((2, 8, 8, 1), np.uint8), "logits": np.ones((2, 3), np.float32)}
    np.savez(tmp_path / "golden.npz", allow_pickle=False, **arrays)
    golden = read_golden_set(tmp_path)
    assert list(golden) == list(arrays)
    np.testing.assert_array_equal(golden["logits"], arrays["logits"])


def test_difference_to_the_golden_set_is_the_largest_of_each_output() -> None:
    """By name, and not a number where an output has one: no tolerance passes that."""
    golden = {"logits": np.zeros((2, 3)), "biases": np.zeros(3)}
    differences = golden_differences({"logits": np.array([[0, 0.5, 0], [0, 0, -2.0]])}, golden)
    assert differences == {"logits": 2.0}
    assert np.isnan(golden_differences({"biases": np.array([0, np.nan, 0])}, golden)["biases"])


def test_residual_is_what_the_parts_miss_the_logit_by() -> None:
    """For each image the worst over the labels; every part counts."""
    generator = np.random.default_rng(0)
    shapes = {"heads": (3, 5, 4), "feed_forwards": (3, 2, 4), "embedding": (3, 4), "biases": (3, 4)}
    outputs = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    outputs["logits"] = (
        outputs["heads"].sum(1) + outputs["feed_forwards"].sum(1) + outputs["embedding"] + outputs["biases"]
    )
    assert completeness_residuals(outputs).max() < 1e-12
    for name in shapes:
        changed = {**outputs, name: outputs[name].copy()}
        changed[name][1, ..., 2] += 0.25 / (shapes[name][1] if len(shapes[name]) == 3 else 1)
        np.testing.assert_allclose(completeness_residuals(changed), [0, 0.25, 0], atol=1e-12)
