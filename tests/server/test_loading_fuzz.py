"""Whatever is wrong with a bundle: one clear error that names it, or a model that computes what it should."""

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import support
from headwise.bundle import BundleError, read_golden_set, read_manifest
from headwise_server.engines import EngineError, create
from headwise_server.loading import LoadSettings, load
from hypothesis import HealthCheck, given, settings

Draw = Callable[[st.SearchStrategy[Any]], Any]
FILES = ["manifest.json", "classify.onnx", "explain.onnx", "weights.bin", "golden.npz", "report.html"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["NaN", "Infinity"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def damage_file(folder: Path, draw: Draw) -> None:
    """A file is deleted, replaced, cut off, longer, or has a flipped byte; or is a folder or a link."""
    path = folder / draw(st.sampled_from(FILES))
    before = path.read_bytes()
    at = int(draw(st.floats(0, 1)) * (len(before) - 1))
    match draw(st.sampled_from(["delete", "replace", "cut", "extend", "flip", "folder", "link"])):
        case "replace":
            path.write_bytes(draw(st.binary(max_size=40)))
        case "cut":
            path.write_bytes(before[:at])
        case "extend":
            path.write_bytes(before + draw(st.binary(max_size=40)))
        case "flip":
            path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        case kind:
            path.unlink()
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(draw(st.sampled_from([path.name, "../x", "/dev/zero", "classify.onnx"])))


def edited(value: Any, draw: Draw) -> Any:
    """A JSON value with one part of it removed or replaced."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 4)) == 0:
        return draw(JSON)
    changed = copy.copy(value)
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    if draw(st.integers(0, 3)) == 0:
        del changed[key]
    else:
        changed[key] = edited(value[key], draw)
    return changed


def edit_manifest(folder: Path, draw: Draw) -> None:
    """A field is removed, or has another value of any type."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(edited(json.loads(path.read_text()), draw)))


def change_golden_set(folder: Path, draw: Draw) -> None:
    """An array is missing, of another type or shape, or has other values; the manifest states the file as it is."""
    golden: dict[str, Any] = dict(read_golden_set(folder))
    name = draw(st.sampled_from(sorted(golden)))
    value = golden[name]
    changes: list[Callable[[], Any]] = [
        lambda: value.astype(draw(st.sampled_from([np.float16, np.float64, np.int64, np.uint8, bool, "U3"]))),
        lambda: value[:0],
        lambda: value[:1],
        lambda: value[..., None],
        lambda: value[..., :-1],
        lambda: np.float32(1.0),
        lambda: np.full_like(value, np.nan if value.dtype == np.float32 else 7),
        lambda: np.array([{"an": "object"}]),
        lambda: value + value.dtype.type(1),
    ]
    golden[name] = draw(st.sampled_from(changes))()
    if draw(st.booleans()):
        golden["other"] = golden.pop(name)
    with (folder / "golden.npz").open("wb") as stream:
        np.savez(stream, **golden)
    support.rehash(folder, read_manifest(folder))


def cut_hashed_file(folder: Path, draw: Draw) -> None:
    """Graphs or weights are cut off, and the manifest states them as they are."""
    path = folder / draw(st.sampled_from(["classify.onnx", "explain.onnx", "weights.bin", "golden.npz"]))
    content = path.read_bytes()
    path.write_bytes(content[: int(draw(st.floats(0, 1)) * len(content))])
    support.rehash(folder, read_manifest(folder))


@pytest.mark.parametrize("damage", [damage_file, edit_manifest, change_golden_set, cut_hashed_file])
def test_damaged_bundle_is_one_clear_error_or_computes_what_it_should(
    bundle: Path, damage: Callable[[Path, Draw], None]
) -> None:
    """Never another exception; every error names the bundle."""
    golden = read_golden_set(bundle)
    how = LoadSettings(create("onnxruntime"), "f32", max_batch=2)

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(shutil.copytree(bundle, Path(temporary, "digits", "1")))
            damage(folder, data.draw)
            reason, model = "", None
            try:
                model = load(folder, how)
            except (BundleError, EngineError) as error:
                reason = str(error)
            if model is None:
                assert str(folder) in reason
                return
            for name, value in model.explain.run(golden["images"]).items():
                np.testing.assert_allclose(value, golden[name], atol=model.manifest.golden_tolerance)

    check()
