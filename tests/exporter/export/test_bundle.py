"""Bundles: written whole, checked before they are seen, verified by name."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import support
from headwise.bundle import FORMAT_VERSION, BundleError, read_manifest, write_manifest
from headwise.graphs import INPUTS, SPLIT
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.export.bundle import Check, list_files, verify, write_bundle
from headwise_exporter.export.graphs import ExportError
from headwise_exporter.stages.export import bundle_contents


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "digits" / "1"))


def failed(checks: list[Check]) -> dict[str, str]:
    """Checks that did not pass, with their details."""
    return {check.name: check.detail for check in checks if not check.passed}


def test_fresh_bundle_passes_every_check(bundle: Path) -> None:
    """Manifest, files, the golden set on each graph, and the completeness of the split and of the maps."""
    checks = verify(bundle)
    assert failed(checks) == {}
    assert [check.name for check in checks] == [
        "manifest",
        "files",
        "golden set, classify.onnx",
        "golden set, explain.onnx",
        "golden set, maps.onnx",
        "golden set, silenced.onnx",
        "completeness of the split",
        "completeness of the maps",
    ]


def test_older_bundle_without_maps_and_silent_heads_passes(copy: Path) -> None:
    """What it lacks is not looked for."""
    for name in ("maps.onnx", "silenced.onnx"):
        (copy / name).unlink()
    with np.load(copy / "golden.npz") as file:
        golden = {name: file[name] for name in ("images", *SPLIT)}
    np.savez(copy / "golden.npz", **golden)
    resign(copy)
    checks = verify(copy)
    assert failed(checks) == {}
    assert {check.name for check in checks if "golden" in check.name} == {
        "golden set, classify.onnx",
        "golden set, explain.onnx",
    }


def test_bundle_holds_what_it_lists_and_nothing_else(bundle: Path) -> None:
    """Every file beside the manifest is listed with its size and sha256."""
    names = {path.name for path in bundle.iterdir()} - {"manifest.json"}
    assert names == {entry.path for entry in read_manifest(bundle).files}
    assert names == {*INPUTS, "weights.bin", "golden.npz", "report.html", "head_samples.png"}


def test_bundle_that_was_to_hold_no_pictures_has_none(
    built: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a file nor a word about one."""
    monkeypatch.setattr("headwise_exporter.export.bundle.export_graphs", support.copied_graphs(bundle))
    contents = replace(bundle_contents(built / "run", load(DatasetSettings("digits"))), pictures=False)
    folder = write_bundle(contents, tmp_path / "models", "digits", 1, timed=None)
    assert not read_manifest(folder).HasField("head_samples")
    assert not list(folder.glob("head_samples*"))


def test_manifest_is_readable_json_without_a_path_of_this_machine(bundle: Path) -> None:
    """proto3 JSON with snake_case names, and nothing about where it was made."""
    text = (bundle / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["metrics"]["test_images"] == 360
    assert manifest["pruning"]["criterion"] == "variance*snp"
    assert str(Path.home()) not in text
    assert str(bundle.parent.parent) not in text


@pytest.mark.parametrize("name", [*INPUTS, "weights.bin", "golden.npz"])
def test_flipped_byte_fails_the_check_of_files(copy: Path, name: str) -> None:
    """One altered byte in any file fails the check, which names the file."""
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert f"{name}: its sha256 is not the one in the manifest" in failed(verify(copy))["files"]


def test_missing_file_is_named(copy: Path) -> None:
    """A file that is not there fails the check of the files."""
    (copy / "weights.bin").unlink()
    assert "weights.bin: missing" in failed(verify(copy))["files"]


def test_newer_format_is_refused_with_what_to_do(copy: Path) -> None:
    """A manifest of a later release is refused by its version."""
    manifest = read_manifest(copy)
    manifest.format_version = FORMAT_VERSION + 1
    write_manifest(manifest, copy)
    message = failed(verify(copy))["manifest"]
    versions = f"has format version {FORMAT_VERSION + 1}; this release of headwise reads version {FORMAT_VERSION}"
    assert versions in message
    assert "Upgrade headwise" in message


def resign(folder: Path) -> None:
    """Give the manifest the hashes of the files as they are, as an attacker or a broken exporter would."""
    manifest = read_manifest(folder)
    del manifest.files[:]
    (folder / "manifest.json").unlink()
    manifest.files.extend(list_files(folder))
    write_manifest(manifest, folder)


def test_wrong_golden_set_fails_though_hashes_fit(copy: Path) -> None:
    """Running the graphs detects wrong contents under right hashes."""
    with np.load(copy / "golden.npz") as file:
        golden = dict(file)
    golden["logits"] += 0.01
    np.savez(copy / "golden.npz", **golden)
    resign(copy)
    assert set(failed(verify(copy))) == {f"golden set, {graph}.onnx" for graph in ("classify", "explain", "maps")}


def test_incomplete_split_fails_though_hashes_fit(copy: Path) -> None:
    """A residual above the manifest's tolerance fails the checks, which give the tolerance."""
    manifest = read_manifest(copy)
    manifest.completeness_tolerance = 1e-12
    write_manifest(manifest, copy)
    for sums in ("completeness of the split", "completeness of the maps"):
        assert "tolerance 1e-12" in failed(verify(copy))[sums]


def test_int8_graphs_are_checked_each_on_its_engine(
    int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files, and the golden set by their own tolerance; an engine that is not here has checked nothing."""
    names = ["golden set, classify.onnxruntime.int8.onnx", "golden set, classify.openvino.int8.xml"]
    checks = verify(int8_bundle)
    assert failed(checks) == {}
    assert [check.name for check in checks][-2:] == names
    copy = Path(shutil.copytree(int8_bundle, tmp_path / "digits" / "1"))
    manifest = read_manifest(copy)
    manifest.variants[0].golden_tolerance /= 10
    write_manifest(manifest, copy)
    assert "golden set differs by" in failed(verify(copy))[names[0]]
    monkeypatch.setitem(sys.modules, "openvino", None)
    expected = "cannot be checked here: openvino missing: pip install 'headwise[quantize]'"
    assert failed(verify(int8_bundle)) == {names[1]: expected}
    (copy / "classify.openvino.int8.bin").unlink()
    assert "classify.openvino.int8.bin: missing" in failed(verify(copy))["files"]


def test_full_disk_leaves_no_bundle(built: Path, tmp_path: Path) -> None:
    """When the weights do not fit on the disk, there is an error and nothing that looks like a bundle."""
    code = """
import pathlib, sys
import headwise_exporter.export.bundle, support
from headwise.graphs import INPUTS, SPLIT
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.files import OutputError
from headwise_exporter.stages.export import bundle_contents
built = pathlib.Path(sys.argv[1]).parent
headwise_exporter.export.bundle.export_graphs = support.copied_graphs(built / "models" / "digits" / "1")
try:
    run, repository = map(pathlib.Path, sys.argv[1:])
    contents = bundle_contents(run, load(DatasetSettings("digits")))
    headwise_exporter.export.bundle.write_bundle(contents, repository, "digits", 1)
except OutputError as error:
    print(error)
"""
    process = support.run_with_little_room(code, 30_000, str(built / "run"), str(tmp_path / "models"))
    assert "cannot write" in process.stdout, process.stderr
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["models", "models/digits"]


def test_graph_that_differs_from_torch_is_not_written(
    built: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden set is run before the rename: a bundle that would fail it is never seen."""
    monkeypatch.setattr("headwise_exporter.export.bundle.export_graphs", support.copied_graphs(bundle))
    monkeypatch.setattr("headwise_exporter.export.manifest.GOLDEN_TOLERANCE", 0.0)
    with pytest.raises(ExportError, match=r"differs from torch by .*Nothing was written"):
        write_bundle(bundle_contents(built / "run", load(DatasetSettings("digits"))), tmp_path / "models", "digits", 1)
    assert list((tmp_path / "models" / "digits").iterdir()) == []


def test_no_manifest_is_no_bundle(tmp_path: Path) -> None:
    """An empty folder, and a manifest that is none, are refused with what to do."""
    assert "has no manifest.json" in failed(verify(tmp_path))["manifest"]
    (tmp_path / "manifest.json").write_text("{ not json")
    with pytest.raises(BundleError, match="is not a bundle manifest"):
        read_manifest(tmp_path)
