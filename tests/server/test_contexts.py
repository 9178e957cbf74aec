"""Compiled graphs: kept under a key of all that makes them unfit elsewhere; what does not open is compiled again."""

import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import processes
import pytest
from headwise_server.engines import EngineError, Session, contexts
from headwise_server.engines.contexts import Target, key, open_kept, target

GPU = "NVIDIA H100 80GB HBM3, 570.86.10\nNVIDIA L4, 570.86.10\n"
HERE = Target(("NVIDIA L4",), "", "570.86.10", "10.13.0", "1.31.0")
SHAPES = {"trt_profile_max_shapes": "images:64x8x8x1"}


class Opener:
    """In place of TensorRT: writes what it compiles where it was told to, and opens what is not damaged."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, graph: Path, entries: Mapping[str, str]) -> Session:
        """Open a graph, and keep what was compiled."""
        if graph.read_bytes() == b"damaged":
            raise EngineError(f"cannot load {graph}")
        self.opened.append(graph.name)
        if entries:
            assert entries["ep.context_enable"] == entries["ep.context_embed_mode"] == "1"
            Path(entries["ep.context_file_path"]).write_bytes(b"compiled")
        return cast(Session, object())


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph to compile."""
    (tmp_path / "classify.onnx").write_bytes(b"graph")
    return tmp_path / "classify.onnx"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the module logs, whatever other tests made of the process's logging."""
    written, logger = io.StringIO(), logging.getLogger(contexts.__name__)
    handler = logging.StreamHandler(written)
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


def test_target_has_every_gpu_its_driver_and_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nvidia-smi and the installed packages say."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    here = target(lambda: GPU, lambda: "10.13.0")
    assert here is not None
    assert (here.gpus, here.driver) == (("NVIDIA H100 80GB HBM3", "NVIDIA L4"), "570.86.10")
    assert (here.visible, here.tensorrt) == ("1", "10.13.0")


@pytest.mark.parametrize("error", [FileNotFoundError("nvidia-smi"), processes.TimeoutExpired("nvidia-smi", 30)])
def test_nothing_is_kept_where_the_gpu_is_not_known(error: Exception, log: io.StringIO) -> None:
    """A guess might bring another machine's engine; the log says why."""

    def ask() -> str:
        raise error

    assert target(ask, lambda: "10.13.0") is None
    assert "compiled graphs are not kept: nvidia-smi does not say" in log.getvalue()


@pytest.mark.parametrize("answer", ["", "NVIDIA L4\n", "a, b, c\n"])
def test_answer_that_is_not_understood_keeps_nothing(answer: str) -> None:
    """No GPU, or other columns than were asked for."""
    assert target(lambda: answer, lambda: "10.13.0") is None


def test_nothing_is_kept_without_a_version_of_tensorrt(log: io.StringIO) -> None:
    """Its libraries may come from anywhere then."""
    assert target(lambda: GPU, lambda: None) is None
    assert "none of tensorrt-cu13" in log.getvalue()


def test_key_changes_with_everything_that_a_compiled_graph_depends_on() -> None:
    """And with nothing else."""
    changed = [
        key(replace(HERE, gpus=("NVIDIA H100",)), ("abc", "classify.onnx"), "f32", SHAPES),
        key(replace(HERE, visible="1"), ("abc", "classify.onnx"), "f32", SHAPES),
        key(replace(HERE, driver="580.1"), ("abc", "classify.onnx"), "f32", SHAPES),
        key(replace(HERE, tensorrt="10.14.0"), ("abc", "classify.onnx"), "f32", SHAPES),
        key(replace(HERE, onnxruntime="1.32.0"), ("abc", "classify.onnx"), "f32", SHAPES),
        key(HERE, ("abd", "classify.onnx"), "f32", SHAPES),
        key(HERE, ("abc", "explain.onnx"), "f32", SHAPES),
        key(HERE, ("abc", "classify.onnx"), "f16", SHAPES),
        key(HERE, ("abc", "classify.onnx"), "f32", {"trt_profile_max_shapes": "images:8x8x8x1"}),
    ]
    own = key(HERE, ("abc", "classify.onnx"), "f32", SHAPES)
    assert len({own, *changed}) == len(changed) + 1
    assert key(replace(HERE), ("abc", "classify.onnx"), "f32", dict(SHAPES)) == own


def test_graph_is_compiled_once(graph: Path, tmp_path: Path) -> None:
    """The second time what was kept is opened; no temporary is left."""
    opener, kept = Opener(), tmp_path / "engines" / "abc" / "key.onnx"
    open_kept(graph, kept, opener)
    open_kept(graph, kept, opener)
    assert opener.opened == ["classify.onnx", "key.onnx"]
    assert [path.name for path in kept.parent.iterdir()] == ["key.onnx"]


def test_damaged_compiled_graph_is_compiled_again(graph: Path, tmp_path: Path, log: io.StringIO) -> None:
    """And replaced; the log says so."""
    opener, kept = Opener(), tmp_path / "key.onnx"
    kept.write_bytes(b"damaged")
    open_kept(graph, kept, opener)
    assert opener.opened == ["classify.onnx"]
    assert kept.read_bytes() == b"compiled"
    assert "classify.onnx is compiled again" in log.getvalue()


def test_graph_that_does_not_open_leaves_nothing(graph: Path, tmp_path: Path) -> None:
    """The error is the engine's own."""
    graph.write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"cannot load .*classify\.onnx"):
        open_kept(graph, tmp_path / "engines" / "key.onnx", Opener())
    assert list((tmp_path / "engines").iterdir()) == []


def test_folder_that_cannot_be_made_stops_nothing(graph: Path, tmp_path: Path, log: io.StringIO) -> None:
    """A repository may be read-only: the graph is compiled at each start."""
    (tmp_path / "engines").write_bytes(b"a file in its place")
    opener = Opener()
    open_kept(graph, tmp_path / "engines" / "key.onnx", opener)
    assert opener.opened == ["classify.onnx"]
    assert "compiled graphs are not kept: no folder" in log.getvalue()


def test_without_a_key_nothing_is_kept(graph: Path, tmp_path: Path) -> None:
    """The graph is opened as it is."""
    opener = Opener()
    open_kept(graph, None, opener)
    assert opener.opened == ["classify.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["classify.onnx"]
