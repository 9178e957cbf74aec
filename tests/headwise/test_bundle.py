"""The manifest of a bundle, as exporter and server read it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headwise.bundle import (
    FORMAT_VERSION,
    BundleError,
    check_consistency,
    check_files,
    file_sha256,
    parse_golden_set,
    read_bundle,
    read_golden_set,
    read_manifest,
    write_manifest,
)
from headwise.graphs import completeness_residuals, golden_differences, golden_shapes, variant_failure
from headwise.v1.bundle_pb2 import COLOR_MODE_GRAYSCALE, Bundle, File, HeadCard, ImageInput, Variant


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


def consistent() -> tuple[Bundle, dict[str, np.ndarray]]:
    """A manifest and a golden set of two images that fit: 3 labels, 2 heads of which one is kept, 1 encoder."""
    manifest = Bundle(labels=["a", "b", "c"], golden_tolerance=1e-4, golden_tolerance_reduced=0.1)
    manifest.completeness_tolerance = 1e-4
    manifest.input.CopyFrom(ImageInput(height=4, width=5, channels=1, color_mode=COLOR_MODE_GRAYSCALE))
    manifest.architecture.pruned_encoders.add()
    manifest.head_cards.extend([HeadCard(row=0), HeadCard(pruned=True)])
    golden = {name: np.zeros(shape, np.float32) for name, shape in golden_shapes(manifest, 2).items()}
    return manifest, {**golden, "images": np.zeros((2, 4, 5, 1), np.uint8)}


def test_manifest_and_golden_set_that_fit_pass() -> None:
    """They raise nothing."""
    check_consistency(*consistent())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("golden_tolerance", float("inf"), "expected a positive golden_tolerance, found inf"),
        ("golden_tolerance_reduced", float("nan"), "expected a positive golden_tolerance_reduced, found nan"),
        ("completeness_tolerance", 0.0, "expected a positive completeness_tolerance, found 0"),
        ("input", ImageInput(width=5, channels=1, color_mode=COLOR_MODE_GRAYSCALE), "found 0 x 5 x 1 in colour mode 1"),
        ("input", ImageInput(height=4, width=5, channels=3, color_mode=COLOR_MODE_GRAYSCALE), "found 4 x 5 x 3"),
        (
            "input",
            ImageInput(height=4, width=9, channels=1, color_mode=COLOR_MODE_GRAYSCALE),
            r"images .* \(2, 4, 9, 1\)",
        ),
        ("labels", [], "expected labels, found none"),
        ("labels", ["a"], r"expected logits in golden.npz as float32 \(2, 1\), found float32 \(2, 3\)"),
        ("head_cards", [HeadCard(row=1)], r"expected a row of its own for each head card .* found rows \[1\]"),
        ("head_cards", [HeadCard(row=0), HeadCard(row=1)], r"expected heads .*\(2, 2, 3\), found float32 \(2, 1, 3\)"),
    ],
)
def test_manifest_that_cannot_be_is_refused(field: str, value: Any, message: str) -> None:
    """What was expected and what was found."""
    manifest, golden = consistent()
    manifest.ClearField(field)  # type: ignore[arg-type]  # any field's name
    if isinstance(value, float):
        setattr(manifest, field, value)
    elif isinstance(value, list):
        getattr(manifest, field).extend(value)
    else:
        getattr(manifest, field).CopyFrom(value)
    with pytest.raises(BundleError, match=message):
        check_consistency(manifest, golden)


def test_golden_set_that_does_not_fit_is_refused() -> None:
    """Missing arrays, other types and no images: all at once."""
    manifest, golden = consistent()
    golden = {name: value[:0] for name, value in golden.items() if name != "heads"}
    golden["biases"] = np.zeros((1, 3), np.float64)
    with pytest.raises(BundleError) as caught:
        check_consistency(manifest, golden)
    for problem in (
        "golden.npz has no heads",
        "expected images in golden.npz as uint8 (1, 4, 5, 1), found uint8 (0, 4, 5, 1)",
        "expected biases in golden.npz as float32 (1, 3), found float64 (1, 3)",
    ):
        assert problem in str(caught.value)


def npz(**arrays: Any) -> bytes:
    """A golden set."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"x", npz(images=np.array([{"an": "object"}])), npz(images=np.zeros(9))[:-30]], ids=range(4)
)
def test_what_is_no_golden_set_is_refused(content: bytes) -> None:
    """Nothing, another file, pickled objects, and a file that was cut off."""
    with pytest.raises(BundleError, match=r"golden\.npz is not a golden set: .*Export the model again"):
        parse_golden_set(content)


def test_golden_set_that_would_unpack_to_too_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged by its table of contents."""
    stream = io.BytesIO()
    np.savez_compressed(stream, images=np.zeros(100_000))
    monkeypatch.setattr("headwise.bundle.GOLDEN_LIMIT_BYTES", 100_000)
    with pytest.raises(BundleError, match="expected at most 100000 bytes when unpacked, found 800"):
        parse_golden_set(stream.getvalue())


def test_bundle_is_read_once_with_its_files(folder: Path) -> None:
    """The manifest's sha256 and the bytes of every file, those of the manifest among them."""
    names = ("classify.onnx", "explain.onnx", "golden.npz")
    write_manifest(Bundle(format_version=FORMAT_VERSION, name="x", files=files_of(folder, *names)), folder)
    bundle = read_bundle(folder)
    assert bundle.manifest == read_manifest(folder)
    assert bundle.sha256 == file_sha256(folder / "manifest.json")
    assert bundle.files == {name: (folder / name).read_bytes() for name in (*names, "manifest.json")}


GOLDEN = np.array([[4.0, 1.0, 0.0], [2.0, 1.9, 0.0]])


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], None),
        ([[0.0, 0.4, 0.0], [-0.3, 0.3, 0.0]], None),  # the second image changes its label, which was hardly sure
        ([[0.0, 0.0, 0.6], [0.0, 0.0, 0.0]], "golden set differs by 0.6, tolerance 0.5"),
        ([[0.0, 0.0, float("nan")], [0.0, 0.0, 0.0]], "golden set differs by nan, tolerance 0.5"),
    ],
)
def test_variant_may_change_a_label_only_where_the_model_is_hardly_sure(
    shift: list[list[float]], expected: str | None
) -> None:
    """And no logit by more than its tolerance."""
    assert variant_failure(GOLDEN + np.array(shift), GOLDEN, 0.5) == expected


def test_variant_that_changes_a_sure_label_fails() -> None:
    """Though every logit is within the tolerance."""
    golden, logits = np.array([[2.0, 1.0]]), np.array([[1.4, 1.6]])
    expected = "1 golden images of which the float32 model is sure change their first label"
    assert variant_failure(logits, golden, 0.9) == expected
    assert variant_failure(logits, golden, 1.1) is None


def test_accepted_variant_must_have_a_file_and_a_tolerance() -> None:
    """A rejected one needs neither; two accepted ones of a kind do not fit."""
    variants = [
        Variant(engine="openvino", precision="int8", reason="loses 3 points"),
        Variant(engine="onnxruntime", precision="int8", accepted=True, path="a.onnx", golden_tolerance=0.1),
        Variant(engine="onnxruntime", precision="int8", accepted=True, path="b.onnx", golden_tolerance=float("nan")),
    ]
    manifest, golden = consistent()
    manifest.files.add(path="a.onnx")
    manifest.variants.extend(variants[:2])
    check_consistency(manifest, golden)
    manifest.variants.append(variants[2])
    with pytest.raises(BundleError) as caught:
        check_consistency(manifest, golden)
    for message in ("one accepted variant at most", "found 'b.onnx', which is none", "positive tolerance of b.onnx"):
        assert message in str(caught.value)
