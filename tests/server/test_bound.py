"""Runs with fixed places for images and answers, on the CPU, where nothing is captured but all else is as on a GPU."""

import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from headwise_server.engines import EngineError, bound, cuda
from headwise_server.engines.bound import BoundSession, open_captured, sizes
from headwise_server.engines.onnxruntime import OnnxRuntimeSession
from hypothesis import given
from hypothesis import strategies as st

CPU: dict[str, Any] = {"providers": ["CPUExecutionProvider"]}


def images(count: int, seed: int = 0) -> np.ndarray:
    """Random ones of the digits' size."""
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def open_bound(graph: Path, largest: int = 4, captured: bool = False) -> BoundSession:
    """On the CPU."""
    options = onnxruntime.SessionOptions()
    return BoundSession(graph, "f32", **CPU, options=options, device="cpu", largest=largest, captured=captured)


@given(st.integers(1, 200))
def test_every_batch_fits_a_size_of_less_than_twice_its_images(largest: int) -> None:
    """Powers of two up to the largest, which is the last."""
    of_batches = sizes(largest)
    assert (of_batches[0], of_batches[-1]) == (1, largest)
    assert all(smaller < larger <= 2 * smaller for smaller, larger in pairwise(of_batches))


@pytest.mark.parametrize("graph", ["classify", "explain"])
def test_bound_session_answers_as_a_plain_one(bundle: Path, graph: str) -> None:
    """In batches of a size, between sizes and beyond the largest, whatever was run before."""
    path = bundle / f"{graph}.onnx"
    session = open_bound(path)
    plain = OnnxRuntimeSession(path, "f32", **CPU, options=onnxruntime.SessionOptions())
    assert session.sizes == [1, 2, 4]
    for count in (4, 3, 1, 2, 9, 4):
        batch = images(count, seed=count)
        expected, answers = plain.run(batch), session.run(batch)
        assert answers.keys() == expected.keys()
        for name, value in answers.items():
            assert value.dtype == expected[name].dtype
            np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_answers_stay_when_the_next_batch_is_run(bundle: Path) -> None:
    """They are copies: the places are used again, also by other threads."""
    session = open_bound(bundle / "classify.onnx")
    batches = [images(1 + seed % 5, seed) for seed in range(40)]
    expected = [session.run(batch)["logits"].copy() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda batch: session.run(batch)["logits"], batches))
    for answer, value in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, value, atol=1e-6)


def test_each_size_is_a_graph_of_its_own(bundle: Path) -> None:
    """Where they are captured: numbered from 1, as ONNX Runtime keeps 0 for itself and never compares shapes."""
    session = open_bound(bundle / "classify.onnx", captured=True)
    numbers = [place.options.get_run_config_entry(bound.GRAPH) for place in session._places]
    assert numbers == ["1", "2", "3"]
    assert cuda.providers(True) == [("CUDAExecutionProvider", {"enable_cuda_graph": "1"})]
    assert cuda.providers(False) == ["CUDAExecutionProvider"]


def test_graphs_that_replay_rightly_are_served(bundle: Path) -> None:
    """What was captured answers as what was not."""
    opened: list[BoundSession] = []

    def open_session(captured: bool) -> BoundSession:
        opened.append(open_bound(bundle / "classify.onnx", captured=captured))
        return opened[-1]

    assert open_captured(bundle / "classify.onnx", open_session) is opened[1]


@pytest.mark.parametrize("fault", ["replays what it captured", "cannot be captured"])
def test_graphs_that_fail_are_not_served(bundle: Path, caplog: pytest.LogCaptureFixture, fault: str) -> None:
    """The session without them is, and the log says why."""

    class Stale(BoundSession):
        def run(self, images_NYXC: np.ndarray, **others: np.ndarray) -> dict[str, np.ndarray]:
            return super().run(np.zeros_like(images_NYXC))

    def open_session(captured: bool) -> BoundSession:
        if captured and fault == "cannot be captured":
            raise EngineError("expected all nodes on CUDA")
        kind = Stale if captured else BoundSession
        options = onnxruntime.SessionOptions()
        return kind(bundle / "classify.onnx", "f32", **CPU, options=options, device="cpu", largest=2)

    with caplog.at_level(logging.WARNING, bound.__name__):
        session = open_captured(bundle / "classify.onnx", open_session)
    assert type(session) is BoundSession
    assert "classify.onnx runs without CUDA graphs: " in caplog.text


def test_run_that_fails_is_found_as_the_session_opens(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not by a client."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail)
    with pytest.raises(EngineError, match=r"classify.onnx does not run in batches of 1: out of memory"):
        open_bound(bundle / "classify.onnx")
