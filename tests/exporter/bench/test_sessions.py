"""A graph runs on the provider and in the type that were asked for, or an error says what runs instead."""

from collections import Counter
from pathlib import Path

import headwise_server.engines.onnxruntime
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from headwise.bundle import read_golden_set
from headwise_exporter.bench import sessions
from headwise_exporter.bench.peaks import product_graph
from headwise_exporter.bench.sessions import Opened, SessionError, check_types, open_session

CPU_ENGINES = ("onnxruntime", "openvino")


@pytest.fixture
def integers(tmp_path: Path) -> Path:
    """A graph of integer products."""
    onnx.save_model(product_graph("int8"), tmp_path / "int8.onnx")
    return tmp_path / "int8.onnx"


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_graph_gives_the_golden_set_in_float32(engine: str, bundle: Path) -> None:
    """On both CPU engines, all products in float32."""
    opened = open_session(bundle / "classify.onnx", engine, "f32", 1)
    check_types(bundle / "classify.onnx", engine, "f32", opened)
    golden = read_golden_set(bundle)
    assert np.abs(opened.run(golden["images"])["logits"] - golden["logits"]).max() < 1e-4


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_integer_graph_runs_in_integers(engine: str, integers: Path) -> None:
    """Its products between QuantizeLinear and DequantizeLinear become integer ones."""
    check_types(integers, engine, "int8", open_session(integers, engine, "int8", 1))


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_float_graph_given_as_int8_is_refused(engine: str, bundle: Path) -> None:
    """The error says in which type how many of its products run; OpenVINO takes bf16 where the machine has it."""
    graph = bundle / "classify.onnx"
    with pytest.raises(SessionError, match=rf"run in int8 on {engine}, found \d+ in (f32|bf16)"):
        check_types(graph, engine, "int8", open_session(graph, engine, "int8", 1))


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_integer_graph_given_as_float32_is_refused(engine: str, integers: Path) -> None:
    """A baseline in a narrower type would be another comparison."""
    with pytest.raises(SessionError, match=rf"run in f32 on {engine}, found \d+ in int8"):
        check_types(integers, engine, "f32", open_session(integers, engine, "f32", 1))


def test_precision_that_the_processor_lacks_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO runs float32 then, and says so when it is asked; here it is asked for float32 whatever is wanted."""
    compile_model = openvino.Core.compile_model

    def without_bf16(core: openvino.Core, path: Path, device: str, properties: dict[str, object]) -> object:
        return compile_model(core, path, device, properties | {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", without_bf16)
    with pytest.raises(SessionError, match="to run in bf16, found OpenVINO running it in f32"):
        open_session(bundle / "classify.onnx", "openvino", "bf16", 1)


def test_provider_that_is_not_there_is_refused(bundle: Path) -> None:
    """ONNX Runtime for the CPU would warn, and run on the CPU."""
    with pytest.raises(SessionError, match=r"cuda cannot run here: expected CUDAExecutionProvider, found .*CPU"):
        open_session(bundle / "classify.onnx", "cuda", "f32", 1)


def test_fall_back_to_another_provider_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where onnxruntime-gpu lists CUDA without a GPU, and the session has only the CPU in the end."""
    monkeypatch.setattr(sessions, "missing", lambda engine: None)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    open_anyhow = onnxruntime.InferenceSession

    def fall_back(path: Path, options: onnxruntime.SessionOptions, **others: object) -> onnxruntime.InferenceSession:
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        return open_anyhow(path, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(SessionError, match="to run on CUDAExecutionProvider, found CPUExecutionProvider"):
        open_session(bundle / "classify.onnx", "cuda", "f32", 1)


@pytest.mark.parametrize(("products", "passes"), [({"bf16": 3, "f32": 2}, True), ({"bf16": 2, "f32": 2}, False)])
def test_most_products_must_run_in_a_reduced_type(products: dict[str, int], passes: bool) -> None:
    """Half of them are not most."""
    opened = Opened(lambda images: {}, lambda: Counter(products))
    if passes:
        check_types(Path("a.onnx"), "openvino", "bf16", opened)
    else:
        with pytest.raises(SessionError, match="found 2 in bf16, 2 in f32"):
            check_types(Path("a.onnx"), "openvino", "bf16", opened)


def test_file_that_is_no_graph_is_one_clear_error(tmp_path: Path) -> None:
    """It is named, on either engine."""
    (tmp_path / "a.onnx").write_bytes(b"damaged")
    for engine in CPU_ENGINES:
        with pytest.raises(SessionError, match=r"cannot load .*a\.onnx"):
            open_session(tmp_path / "a.onnx", engine, "f32", 1)


def test_unknown_engine_is_refused_with_those_that_there_are() -> None:
    """By name."""
    with pytest.raises(SessionError, match="unknown engine 'tflite'; expected one of: onnxruntime, openvino"):
        sessions.missing("tflite")


def test_options_are_those_of_the_server() -> None:
    """What is timed is what is served."""
    assert sessions.DISABLED_OPTIMIZERS == headwise_server.engines.onnxruntime.DISABLED_OPTIMIZERS
