"""From the images of a request to the answer, in this process: what is not run, and what is withheld."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import support
from headwise.v1 import service_pb2 as pb
from headwise_server.batching import Batcher
from headwise_server.decoders import Decoders
from headwise_server.engines import Outputs, create
from headwise_server.errors import Internal, Overloaded
from headwise_server.inference import Caller, State
from headwise_server.loading import LoadSettings, load
from headwise_server.memory import Memory
from headwise_server.services.explain import explain
from headwise_server.services.headwise import classify
from support import png
from wire import tensor

SECONDS = support.LONG_SECONDS
CALLER = Caller("somebody", None)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
async def state(bundle: Path) -> AsyncIterator[State]:
    """What handlers share, in this process; one stream, one image at a time, 8 may wait."""
    models = {"digits": {1: load(bundle, LoadSettings(create("onnxruntime"), "f32"))}}
    with ThreadPoolExecutor(2) as pool:
        batcher = Batcher(pool, streams=1, max_batch=1, max_queue=8)
        decoders = Decoders(pool, threads=2, memory_bytes=2**30, max_queue=8)
        yield State(batcher, decoders, Memory(2**30), models=models)
        await batcher.close()


async def test_split_that_misses_the_logit_is_withheld(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explanation whose parts do not add up never leaves the server; the error gives the figure."""
    session = state.models["digits"][1].explain
    run: Callable[[np.ndarray], Outputs] = session.run

    def tampered(images_NYXC: np.ndarray) -> Outputs:
        outputs = run(images_NYXC)
        outputs["heads"][0, 0, 4] += 0.5
        return outputs

    request = pb.ExplainRequest(images=[tensor(IMAGES[0])])
    assert (await explain(state, request, CALLER)).explanations[0].completeness_residual < 1e-4
    monkeypatch.setattr(session, "run", tampered)
    with pytest.raises(Internal, match=r"miss the logit by 0\.5, tolerance 0\.0001; the explanation is withheld"):
        await explain(state, request, CALLER)


async def test_request_that_fails_in_part_leaves_no_work_behind(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one batch of a large request fails, those of it that wait are not run, except one that has just begun."""
    session, ran, gate = state.models["digits"][1].classify, [], threading.Event()

    def failing(images_NYXC: np.ndarray) -> Outputs:
        ran.append(len(images_NYXC))
        assert len(ran) == 1 or gate.wait(SECONDS)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(session, "run", failing)
    with pytest.raises(Internal, match="out of memory"):
        await classify(state, pb.ClassifyRequest(images=map(tensor, IMAGES)), CALLER)
    gate.set()
    await state.batcher.close()
    assert state.batcher.waiting_images == 0
    assert len(ran) <= 2


async def test_full_queue_refuses_a_photo_before_it_is_decoded(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be run is not looked at either."""
    gate, run = threading.Event(), state.models["digits"][1].classify.run
    monkeypatch.setattr(
        state.models["digits"][1].classify, "run", lambda images_NYXC: gate.wait(SECONDS) and run(images_NYXC)
    )
    monkeypatch.setattr(state.decoders, "run", lambda *_: pytest.fail("it was decoded"))
    waiting = [asyncio.create_task(classify(state, pb.ClassifyRequest(images=[tensor(IMAGES[0])]), CALLER))]
    await asyncio.sleep(0)  # this one runs, and so much waits beside it that there is no room for one image more
    while state.batcher.waiting_images < 6:  # four fifths of the queue are the most that one client may have
        waiting.append(asyncio.create_task(classify(state, pb.ClassifyRequest(images=[tensor(IMAGES[0])]), CALLER)))
        await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await classify(state, pb.ClassifyRequest(images=[pb.Image(encoded=png(IMAGES[0]))]), CALLER)
    gate.set()
    assert len(await asyncio.gather(*waiting)) > 1
