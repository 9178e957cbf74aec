"""SIGTERM at the worst moment: every call is answered, or ends with UNAVAILABLE."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import support
from gated import wait_until_draining
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from hostile import (
    MIB,
    SECONDS,
    Known,
    Outcome,
    answer,
    golden_set,
    outcome,
    own_channel,
    padded,
    ready,
    stalling_proxy,
)

GRACE = ("--engine", "onnxruntime", "--grace-seconds", str(10 * SECONDS))
CONNECTIONS = 20


@pytest.fixture(scope="module")
def known(bundle: Path) -> Known:
    """Images with their logits."""
    return golden_set(bundle)


def test_sigterm_under_load_loses_nothing(repository: Path, known: Known) -> None:
    """20 connections call on until the server has gone: right answers, or UNAVAILABLE, nothing else."""
    seen: list[list[Outcome]] = [[] for _ in range(CONNECTIONS)]

    def caller(outcomes: list[Outcome], running: support.ServerProcess) -> None:
        with own_channel(running.address) as channel:
            while running.process.poll() is None:
                outcomes.append(answer(HeadwiseServiceStub(channel).Classify, known, len(outcomes)))
                if outcomes[-1].code == "UNAVAILABLE":
                    time.sleep(0.001)

    with support.running_server(repository, GRACE) as running, ThreadPoolExecutor(CONNECTIONS) as pool:
        ready(running)
        callers = [pool.submit(caller, outcomes, running) for outcomes in seen]
        support.wait_until(lambda: all(Outcome("OK") in outcomes for outcomes in seen))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(SECONDS) == 0
        for ended in callers:
            ended.result(SECONDS)
    assert {item.code for outcomes in seen for item in outcomes} == {"OK", "UNAVAILABLE"}
    assert not any("Traceback" in line for line in running.log)


def test_half_uploaded_request_that_is_completed_in_the_grace_time_is_answered(repository: Path) -> None:
    """It came before the signal, and its second half after it."""
    png = support.png(np.full((8, 8, 1), 7, np.uint8))
    requests = [pb.ClassifyRequest(images=[pb.Image(encoded=file)]) for file in (png, padded(png, 2 * MIB))]
    with (
        support.running_server(repository, (*GRACE, "--max-calls", "1")) as running,
        stalling_proxy(running, MIB) as proxy,
        own_channel(running.address) as channel,
        own_channel(proxy.address) as slow,
    ):
        ready(running)

        def is_full() -> bool:
            call = HeadwiseServiceStub(channel).Classify.future(requests[0], timeout=SECONDS)
            return call.exception(SECONDS) is not None and outcome(call.exception()).is_refusal

        support.wait_until(lambda: not is_full())  # whoever asked whether it serves has left
        expected = HeadwiseServiceStub(channel).Classify(requests[0], timeout=SECONDS).classifications
        uploading = HeadwiseServiceStub(slow).Classify.future(requests[1], timeout=SECONDS)
        support.wait_until(lambda: proxy.stalled == 1)
        support.wait_until(is_full)  # so it has arrived
        running.process.send_signal(signal.SIGTERM)
        wait_until_draining(running)
        proxy.release()
        assert uploading.result(SECONDS).classifications == expected
        assert running.process.wait(SECONDS) == 0


def test_half_uploaded_request_that_is_not_completed_ends_with_the_grace_time(repository: Path) -> None:
    """With UNAVAILABLE, and the server stops."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=bytes(2 * MIB))])
    arguments = ("--engine", "onnxruntime", "--grace-seconds", "0.2")
    with (
        support.running_server(repository, arguments) as running,
        stalling_proxy(running, MIB) as proxy,
        own_channel(proxy.address) as slow,
    ):
        ready(running)
        uploading = HeadwiseServiceStub(slow).Classify.future(request, timeout=SECONDS)
        support.wait_until(lambda: proxy.stalled == 1)
        assert running.stop() == 0
        proxy.release()
        assert outcome(uploading.exception(SECONDS)).code == "UNAVAILABLE"


def test_one_stream_that_sends_all_it_can_neither_is_refused_nor_refuses_others(repository: Path, known: Known) -> None:
    """It is slowed beside a caller of one image at a time; all answers of both are right."""
    stop, numbers = threading.Event(), tuple(range(32))

    def requests() -> Iterator[pb.ClassifyStreamRequest]:
        while not stop.is_set():
            yield pb.ClassifyStreamRequest(request=known.request(*numbers))

    def stream(address: str) -> list[bool]:
        with own_channel(address) as channel:
            return [
                known.is_right(reply.response, *numbers)
                for reply in HeadwiseServiceStub(channel).ClassifyStream(requests(), timeout=SECONDS)
            ]

    arguments = ("--engine", "onnxruntime", "--max-queue", "40")
    with (
        support.running_server(repository, arguments) as running,
        ThreadPoolExecutor(1) as pool,
        own_channel(running.address) as channel,
    ):
        ready(running)
        streaming = pool.submit(stream, running.address)
        try:
            outcomes = [answer(HeadwiseServiceStub(channel).Classify, known, number) for number in range(200)]
        finally:
            stop.set()
        assert outcomes == [Outcome("OK")] * 200
        answered = streaming.result(SECONDS)
    assert answered
    assert all(answered)
