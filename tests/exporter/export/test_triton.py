"""A Triton repository: configurations that NVIDIA's message takes, graphs that give the golden set, no mix-up."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
from headwise.bundle import BundleError, read_golden_set, read_manifest, write_manifest
from headwise.graphs import SPLIT
from headwise_exporter.export.graphs import run_graph
from headwise_exporter.export.triton import TritonError, TritonSettings, write_triton_repository

READER = Path(__file__).parent / "triton_config.py"
SETTINGS = TritonSettings(max_batch=16, instances=2, device="cpu")


def parsed(config: Path) -> dict[str, Any]:
    """What Triton would read; a wrong name or type of a field fails."""
    words = [sys.executable, str(READER), str(config)]
    process = processes.run(words, check=True)
    values: dict[str, Any] = json.loads(process.stdout)
    return values


@pytest.fixture
def triton(bundle: Path, tmp_path: Path) -> Path:
    """The bundle in a Triton repository."""
    write_triton_repository(bundle, tmp_path / "triton", settings=SETTINGS)
    return tmp_path / "triton"


def changed(bundle: Path, folder: Path, **changes: Any) -> Path:
    """A bundle with another manifest."""
    copy = Path(shutil.copytree(bundle, folder))
    manifest = read_manifest(copy)
    for name, value in changes.items():
        if isinstance(value, list):
            getattr(manifest, name)[:] = value
        else:
            setattr(manifest, name, value)
    write_manifest(manifest, copy)
    return copy


def test_configuration_is_what_nvidias_message_takes(triton: Path, bundle: Path) -> None:
    """Sizes without the batch, the labels' file, batching, instances, version policy and warm-up."""
    assert parsed(triton / "digits" / "config.pbtxt") == {
        "name": "digits",
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": 16,
        "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["8", "8", "1"]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["10"], "label_filename": "labels.txt"}],
        "version_policy": {"latest": {"num_versions": 1}},
        "dynamic_batching": {},
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
        "model_warmup": [
            {
                "name": "one image",
                "batch_size": 1,
                "inputs": {"images": {"data_type": "TYPE_UINT8", "dims": ["8", "8", "1"], "zero_data": True}},
            }
        ],
    }
    assert (triton / "digits" / "labels.txt").read_text("utf-8").splitlines() == list(read_manifest(bundle).labels)


def test_explain_is_a_model_with_every_output_of_the_split(triton: Path, bundle: Path) -> None:
    """In the sizes of the golden set."""
    config = parsed(triton / "digits_explain" / "config.pbtxt")
    golden = read_golden_set(bundle)
    dims = {output["name"]: [int(size) for size in output["dims"]] for output in config["output"]}
    assert dims == {name: list(golden[name].shape[1:]) for name in SPLIT}


@pytest.mark.parametrize("model", ["digits", "digits_explain"])
def test_graph_gives_the_golden_set_where_it_lies(triton: Path, bundle: Path, model: str) -> None:
    """Beside its weights, under the names that Triton expects."""
    golden = read_golden_set(bundle)
    version = triton / model / "1"
    assert {path.name for path in version.iterdir()} == {"model.onnx", "weights.bin"}
    for name, value in run_graph(version / "model.onnx", golden["images"]).items():
        assert abs(value - golden[name]).max() < 1e-4


def test_next_version_joins_the_first(triton: Path, bundle: Path, tmp_path: Path) -> None:
    """One configuration for both; each has its own graphs."""
    second = changed(bundle, tmp_path / "second", version="2")
    written = write_triton_repository(second, triton, settings=SETTINGS)
    assert written == [triton / "digits" / "2", triton / "digits_explain" / "2"]
    assert sorted(path.name for path in (triton / "digits").iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]


def test_version_that_is_there_is_not_replaced(triton: Path, bundle: Path) -> None:
    """It may be in use."""
    with pytest.raises(TritonError, match=r"digits/1 is there already"):
        write_triton_repository(bundle, triton)


def test_version_with_other_labels_needs_another_name(triton: Path, bundle: Path, tmp_path: Path) -> None:
    """Triton has one file of labels for all versions; under another name both are served."""
    names = [f"digit {number}" for number in range(10)]
    other = changed(bundle, tmp_path / "other", version="2", labels=names)
    with pytest.raises(TritonError, match="labels and sizes"):
        write_triton_repository(other, triton)
    assert not (triton / "digits_explain" / "2").exists()
    write_triton_repository(other, triton, "named")
    assert parsed(triton / "named" / "config.pbtxt")["name"] == "named"


def test_label_with_a_line_break_is_refused(bundle: Path, tmp_path: Path) -> None:
    """It would move all labels after it by one."""
    broken = changed(bundle, tmp_path / "broken", labels=["ze\nro", *"123456789"])
    with pytest.raises(TritonError, match=r"found 'ze\\nro'"):
        write_triton_repository(broken, tmp_path / "triton")


def test_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Nothing is written."""
    copy = changed(bundle, tmp_path / "copy")
    (copy / "classify.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"classify\.onnx"):
        write_triton_repository(copy, tmp_path / "triton")
    assert not (tmp_path / "triton").exists()
