"""Classify runs in the fastest precision that passes, and int8 is never said of anything else."""

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import openvino
import pytest
import support
from headwise.bundle import BundleError, read_golden_set, read_manifest, write_manifest
from headwise_exporter.data import datasets
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.export.variants import make_variants
from headwise_server import loading
from headwise_server.engines import Engine, EngineError, Outputs, Precision, Session, create
from headwise_server.loading import LoadSettings
from headwise_server.models import Model

CPU = ["onnxruntime", "openvino"]


@pytest.fixture
def copy(int8_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with int8 graphs to change."""
    return Path(shutil.copytree(int8_bundle, tmp_path / "digits" / "1"))


def load(folder: Path, engine: Engine, precision: Precision | Literal["auto"]) -> Model:
    """The model of a bundle."""
    return loading.load(folder, LoadSettings(engine, precision, max_batch=4))


class Late:
    """A session that takes longer than the real one."""

    def __init__(self, inner: Session) -> None:
        self.inner, self.precision = inner, inner.precision

    def run(self, images_NYXC: np.ndarray, **others: np.ndarray) -> Outputs:
        """The real outputs, late."""
        time.sleep(0.02)
        return self.inner.run(images_NYXC, **others)


def slowed(name: str, *precisions: Precision) -> Engine:
    """A real engine that takes longer in some precisions."""
    real = create(name)

    def open_session(graph: Path, precision: Precision, streams: int, cache: Path) -> Session:
        session = real.open_session(graph, precision, streams, cache)
        return Late(session) if precision in precisions else session

    return replace(real, open_session=open_session)


@pytest.mark.parametrize("name", CPU)
def test_fastest_precision_that_passes_is_served(
    int8_bundle: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As measured at the load: the log says which, and how long each took; Explain is always f32."""
    with caplog.at_level(logging.INFO):
        model = load(int8_bundle, slowed(name, "f32", "bf16"), "auto")
    assert (model.classify.precision, model.explain.precision) == ("int8", "f32")
    assert model.served(model.classify).precision == "int8"
    assert f"digits version 1 on {name}: Classify in int8; ms by batch of 1 / 4: f32 " in caplog.text
    assert load(int8_bundle, slowed(name, "bf16", "int8"), "auto").classify.precision == "f32"


@pytest.mark.parametrize("name", CPU)
def test_precision_that_is_asked_for_is_served_whatever_it_takes(int8_bundle: Path, name: str) -> None:
    """int8 by the engine's own graph, f32 by the float32 one."""
    wanted: tuple[Precision, ...] = ("int8", "f32")
    for precision in wanted:
        assert load(int8_bundle, slowed(name, precision), precision).classify.precision == precision


def test_precision_that_is_not_there_is_an_error(bundle: Path, copy: Path) -> None:
    """No int8 graph, one that was rejected, with the reason, or a type that the engine does not compute in."""
    engine = create("onnxruntime")
    with pytest.raises(EngineError, match=r"digits/1 on onnxruntime: expected Classify in int8.*, found f32 alone\."):
        load(bundle, engine, "int8")
    with pytest.raises(EngineError, match=r"expected Classify in bf16, .*, found f32, int8 alone\."):
        load(copy, engine, "bf16")
    manifest = read_manifest(copy)
    del manifest.variants[:]
    manifest.variants.add(engine="onnxruntime", precision="int8", reason="loses 7 points")
    write_manifest(manifest, copy)
    with pytest.raises(EngineError, match=r"found f32 alone \(loses 7 points\)\. Ask for one of those, or for auto"):
        load(copy, engine, "int8")
    assert load(copy, engine, "auto").classify.precision == "f32"


@pytest.mark.parametrize("name", CPU)
def test_float_graph_in_the_place_of_an_int8_one_is_not_served_as_int8(
    copy: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would pass any golden set: what it computes in tells. Where int8 was not asked for, f32 goes on."""
    float_graph = copy / "classify.onnx"
    if name == "onnxruntime":
        shutil.copyfile(float_graph, copy / "classify.onnxruntime.int8.onnx")
    else:
        model = openvino.Core().read_model(float_graph)
        openvino.save_model(model, copy / "classify.openvino.int8.xml", compress_to_fp16=False)
    support.rehash(copy, read_manifest(copy))
    with pytest.raises(EngineError, match=rf"int8.* on {name} in int8: expected .* to run in int8, found (\d+) of \1 "):
        load(copy, create(name), "int8")
    with caplog.at_level(logging.WARNING):
        assert load(copy, create(name), "auto").classify.precision == "f32"
    assert "to run in int8, found" in caplog.text


def test_engine_that_gives_another_precision_is_refused(int8_bundle: Path) -> None:
    """A session that calls itself f32 is not served as int8."""
    real = create("onnxruntime")

    def open_session(graph: Path, precision: Precision, streams: int, cache: Path) -> Session:
        return real.open_session(int8_bundle / "classify.onnx", "f32", streams, cache)

    with pytest.raises(EngineError, match="expected a session in int8, found one in f32"):
        load(int8_bundle, replace(real, open_session=open_session), "int8")


def test_int8_is_checked_by_its_own_tolerance(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An engine that is further from the golden set than the one it was accepted on does not serve it."""
    manifest = read_manifest(copy)
    for variant in manifest.variants:
        variant.golden_tolerance = variant.golden_difference / 10
    write_manifest(manifest, copy)
    with pytest.raises(EngineError, match=r"int8\.onnx on onnxruntime in int8: golden set differs by"):
        load(copy, create("onnxruntime"), "int8")
    with caplog.at_level(logging.WARNING):
        assert load(copy, create("onnxruntime"), "auto").classify.precision == "f32"
    assert "golden set differs by" in caplog.text


def test_accepted_variant_without_a_file_is_refused(copy: Path) -> None:
    """The manifest does not fit the bundle: nothing is served."""
    manifest = read_manifest(copy)
    manifest.variants[0].path = "elsewhere.onnx"
    write_manifest(manifest, copy)
    with pytest.raises(BundleError, match=r"an accepted variant among the files, found 'elsewhere\.onnx'"):
        load(copy, create("onnxruntime"), "auto")


def test_gpu_engine_takes_the_float16_graph(bundle: Path, tmp_path: Path) -> None:
    """It is opened in place of classify.onnx, checked as every variant, and served if it is the fastest.

    Here by the CPU's session under the name of the GPU's engine.
    """
    copy = Path(shutil.copytree(bundle, tmp_path / "digits" / "1"))
    settings = QuantizationSettings(engines=(), half=True, max_drop_points=100)
    manifest = read_manifest(copy)
    digits = datasets.load(DatasetSettings("digits"))
    manifest.variants.extend(make_variants(copy, read_golden_set(copy), digits, settings))
    support.rehash(copy, manifest)
    opened = []

    def open_session(graph: Path, precision: Precision, streams: int, cache: Path) -> Session:
        opened.append((graph.name, precision))
        session = create("onnxruntime").open_session(graph, "f32", streams, cache)
        session.precision = precision
        return Late(session) if precision == "f32" else session

    model = load(copy, Engine("tensorrt", open_session, lambda: None), "auto")
    others = [(graph, "f32") for graph in ("explain.onnx", "maps.onnx", "silenced.onnx")]
    assert opened == [("classify.onnx", "f32"), ("classify.fp16.onnx", "f16"), *others]
    assert not any(isinstance(session, str) for session in model.further.values())
    assert (model.classify.precision, model.explain.precision) == ("f16", "f32")
