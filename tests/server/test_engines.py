"""Engines: the same answers, and a loud refusal where they cannot give them."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from headwise.bundle import read_manifest
from headwise_exporter.export import quantization
from headwise_server import engines
from headwise_server.engines import MODULES, Engine, EngineError, Precision, Session, create, tensorrt

CPU = ["onnxruntime", "openvino"]


def open_session(engine: Engine, graph: Path, precision: Precision = "f32", streams: int = 1) -> Session:
    """A session of a graph, with nothing kept."""
    return engine.open_session(graph, precision, streams, Path("unused"))


@pytest.fixture
def golden(bundle: Path) -> dict[str, np.ndarray]:
    """What the bundle's graphs must give."""
    with np.load(bundle / "golden.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("graph", ["classify", "explain"])
def test_engine_gives_what_the_golden_set_says(
    bundle: Path, golden: dict[str, np.ndarray], name: str, graph: str
) -> None:
    """Every output of every graph, in float32."""
    session = open_session(create(name), bundle / f"{graph}.onnx", streams=2)
    assert session.precision == "f32"
    for output, value in session.run(golden["images"]).items():
        np.testing.assert_allclose(value, golden[output], atol=read_manifest(bundle).golden_tolerance)


@pytest.mark.parametrize("name", CPU)
def test_explain_and_classify_agree_to_rounding(bundle: Path, golden: dict[str, np.ndarray], name: str) -> None:
    """On one engine in one precision their logits are the same to 1e-5."""
    engine = create(name)
    classified, explained = (
        open_session(engine, bundle / f"{graph}.onnx").run(golden["images"])["logits"]
        for graph in ("classify", "explain")
    )
    np.testing.assert_allclose(explained, classified, rtol=0, atol=1e-5)


def test_runtime_that_cannot_be_loaded_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed, but a library of its own is not there: one line and what to do."""

    def import_module(name: str) -> None:
        raise ImportError("libonnx.so: cannot open shared object file")

    monkeypatch.setattr(engines.importlib, "import_module", import_module)
    with pytest.raises(EngineError, match=r"cannot be loaded: libonnx\.so.*--force-reinstall 'headwise\[cpu\]'"):
        create("onnxruntime")


@pytest.mark.parametrize("name", CPU)
def test_session_may_be_run_from_several_threads(bundle: Path, name: str) -> None:
    """Concurrent runs give each thread its own answer, in memory of its own."""
    session = open_session(create(name), bundle / "classify.onnx", streams=2)
    batches = [np.random.default_rng(seed).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8) for seed in range(20)]
    expected = [session.run(batch)["logits"] for batch in batches]
    start = threading.Barrier(4)

    def work(batch: np.ndarray) -> np.ndarray:
        start.wait()
        return session.run(batch)["logits"]

    with ThreadPoolExecutor(4) as pool:
        for expected_logits, logits in zip(expected, pool.map(work, batches), strict=True):
            np.testing.assert_allclose(logits, expected_logits, atol=1e-5)


@pytest.mark.parametrize("name", CPU)
def test_damaged_graph_is_an_engine_error(tmp_path: Path, name: str) -> None:
    """What the runtime cannot load is named, with the engine's own words."""
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"cannot load .*broken.onnx"):
        open_session(create(name), tmp_path / "broken.onnx")


def test_unknown_engine_lists_the_known_ones() -> None:
    """An engine that does not exist is refused."""
    with pytest.raises(EngineError, match=f"expected one of: auto, {', '.join(MODULES)}"):
        create("tvm")


@pytest.mark.parametrize(("name", "provider"), [("cuda", "CUDA"), ("tensorrt", "Tensorrt")])
def test_gpu_engine_without_its_provider_is_refused_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, provider: str
) -> None:
    """The CPU build of ONNX Runtime never runs in place of a GPU engine."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match=f"expected an ONNX Runtime with {provider}ExecutionProvider"):
        create(name)


def test_provider_that_falls_back_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU build without a GPU lists the provider and would quietly run on the CPU; it must not."""
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: available)
    engine = create("cuda")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EngineError, match=r"CUDAExecutionProvider|to run on CUDA"),
    ):
        open_session(engine, bundle / "classify.onnx")


def test_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose package is not there names the extra that brings it."""
    monkeypatch.setattr(engines, "is_installed", lambda name: False)
    with pytest.raises(EngineError, match=r"needs the package openvino, .*pip install 'headwise\[cpu\]'"):
        create("openvino")
    with pytest.raises(EngineError, match=r"no CPU runtime is installed. Install one: pip install 'headwise\[cpu\]'"):
        create("auto")


def test_auto_prefers_openvino_and_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO where it is installed, else ONNX Runtime; never a GPU unasked."""
    assert create("auto").name == "openvino"
    monkeypatch.setattr(engines, "is_installed", lambda name: name != "openvino")
    assert create("auto").name == "onnxruntime"


def test_openvino_states_the_precision_it_runs_in(bundle: Path) -> None:
    """bf16 where the processor has it, and then it is what runs; f32 is never silently less."""
    engine: Engine = create("openvino")
    reduced = engine.reduced_precision()
    if reduced is None:
        with pytest.raises(EngineError, match=r"expected .* to run in bf16"):
            open_session(engine, bundle / "classify.onnx", "bf16")
    else:
        assert open_session(engine, bundle / "classify.onnx", reduced).precision == "bf16"


@pytest.mark.parametrize("name", CPU)
def test_int8_graph_runs_in_integers(int8_bundle: Path, golden: dict[str, np.ndarray], name: str) -> None:
    """By each engine its own, nearly as the golden set says; nothing is left beside the graph."""
    manifest = read_manifest(int8_bundle)
    [variant] = [variant for variant in manifest.variants if variant.engine == name]
    session = open_session(create(name), int8_bundle / variant.path, "int8", streams=2)
    assert session.precision == "int8"
    difference = np.abs(session.run(golden["images"])["logits"] - golden["logits"]).max()
    assert 0 < difference <= variant.golden_tolerance
    names = {path.name for path in int8_bundle.iterdir()}
    assert names == {"manifest.json", *(entry.path for entry in manifest.files)}


@pytest.mark.parametrize("name", CPU)
def test_float_graph_is_not_run_as_int8(bundle: Path, name: str) -> None:
    """What computes in float32 is refused under the name int8, with the number of operations that do."""
    expected = r"expected .*classify.onnx to run in int8, found (\d+) of \1 convolutions and products with weights"
    with pytest.raises(EngineError, match=expected):
        open_session(create(name), bundle / "classify.onnx", "int8")


@pytest.mark.parametrize(("kept", "first"), [("Conv", "MatMul"), ("MatMul", "Conv")])
def test_graph_that_is_partly_float_is_not_run_as_int8(
    bundle: Path, golden: dict[str, np.ndarray], tmp_path: Path, kept: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kind of operation that was left in float32 is found by what ran."""
    monkeypatch.setattr(quantization, "QUANTISED", (kept,))
    graph = quantization.quantize(bundle / "classify.onnx", "onnxruntime", tmp_path, golden["images"])
    with pytest.raises(EngineError, match=rf"in another type; first of them (Fused)?({first}|Gemm)"):
        open_session(create("onnxruntime"), graph, "int8")


def test_onnx_runtime_has_no_precision_but_those_that_it_computes_in(bundle: Path) -> None:
    """A float32 session never goes by the name of another precision."""
    with pytest.raises(EngineError, match=r"expected f32 or int8, .* found bf16"):
        open_session(create("onnxruntime"), bundle / "classify.onnx", "bf16")


def test_tensorrt_takes_the_types_that_the_graph_states(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One profile of 1 to 64 images, and no option that enables a precision: the network is then strongly typed."""
    asked: dict[str, Any] = {}

    def record(path: Path, precision: Precision, **others: Any) -> None:
        asked.update(others, path=path, precision=precision)

    monkeypatch.setattr(tensorrt, "BoundSession", record)
    monkeypatch.setattr(tensorrt, "target", lambda: None)
    tensorrt._open_session(bundle / "classify.onnx", "f32", 1, Path("unused"))
    [(provider, options), rest] = asked["providers"]
    assert (provider, rest) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options == {
        "trt_profile_min_shapes": "images:1x8x8x1",
        "trt_profile_opt_shapes": "images:16x8x8x1",
        "trt_profile_max_shapes": "images:64x8x8x1",
    }
    assert asked["options"].get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_runtimes_do_not_report_their_use() -> None:
    """OpenVINO's telemetry cannot be imported and ONNX Runtime's is off, before either is loaded."""
    code = """
import os, sys
from headwise_server.engines import create
assert "openvino" not in sys.modules and "onnxruntime" not in sys.modules
create("openvino"), create("onnxruntime")
assert "openvino" in sys.modules and sys.modules["openvino_telemetry"] is None
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    processes.run([sys.executable, "-c", code], check=True, env=environment)
