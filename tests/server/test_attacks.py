"""Requests that are meant to do harm: each is refused with a reason, and everybody else is answered."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import support
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from hostile import MIB, SECONDS, Known, Outcome, answer, golden_set, growth_below, outcome, own_channel, ready

MEMORY_MIB = 200  # the least for messages of 32 MiB


@pytest.fixture(scope="module")
def known(bundle: Path) -> Known:
    """Images with their logits."""
    return golden_set(bundle)


@pytest.fixture(scope="module")
def attacked(repository: Path) -> Iterator[support.ServerProcess]:
    """A server of this file alone, whose requests may take little memory."""
    arguments = ("--engine", "onnxruntime", "--memory-mib", str(MEMORY_MIB))
    with support.running_server(repository, arguments) as running:
        ready(running)
        yield running


@pytest.fixture
def channel(attacked: support.ServerProcess) -> Iterator[grpc.Channel]:
    """The attacker's connection."""
    with own_channel(attacked.address) as opened:
        yield opened


def failed(call: Callable[[], object]) -> Outcome:
    """How a call fails, which it must."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return outcome(caught.value)


def test_explanations_of_the_same_label_many_times_are_refused(
    attacked: support.ServerProcess, channel: grpc.Channel, known: Known
) -> None:
    """1,024 images, and one label 2,000 times or 24 MB of labels; others are answered meanwhile."""
    images = known.request(*range(1024)).images
    requests = [pb.ExplainRequest(images=images, labels=["3"] * 2000), pb.ExplainRequest(labels=["3"] * 8_000_000)]
    stub = HeadwiseServiceStub(channel)
    with growth_below(attacked, MEMORY_MIB + 32), ThreadPoolExecutor(4) as pool, own_channel(attacked.address) as other:
        attacks = [
            pool.submit(failed, lambda request=request: stub.Explain(request, timeout=SECONDS))  # type: ignore[misc]  # untyped
            for request in requests * 3
        ]
        health = health_pb2_grpc.HealthStub(other).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert answer(HeadwiseServiceStub(other).Classify, known, 3) == Outcome("OK")
        for attack in attacks:
            refused = attack.result(SECONDS)
            assert refused.code == "INVALID_ARGUMENT" or refused.is_refusal
    assert failed(lambda: stub.Explain(requests[0], timeout=SECONDS)).code == "INVALID_ARGUMENT"
    assert failed(lambda: stub.Explain(requests[1], timeout=SECONDS)).fields == ("request",)


def test_compressed_request_is_refused_before_it_is_unpacked(
    attacked: support.ServerProcess, channel: grpc.Channel
) -> None:
    """31 KB that would be 31 MB."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=bytes(31 * MIB))])
    call = HeadwiseServiceStub(channel).Classify
    with growth_below(attacked, 16):
        refused = failed(lambda: call(request, timeout=SECONDS, compression=grpc.Compression.Gzip))
    assert refused.code == "UNIMPLEMENTED"


def test_junk_is_refused_with_the_field_and_without_a_word_in_the_log(
    attacked: support.ServerProcess, channel: grpc.Channel, known: Known
) -> None:
    """Random bytes in place of a request."""
    call = channel.unary_unary("/headwise.v1.HeadwiseService/Classify")
    random, lines = np.random.default_rng(0), len(attacked.log)
    for size in [1, 7, 50] * 60 + [MIB, 4 * MIB]:
        refused = failed(lambda size=size: call(random.bytes(size), timeout=SECONDS))  # type: ignore[misc]  # untyped
        assert (refused.code, len(refused.fields)) == ("INVALID_ARGUMENT", 1)
    assert answer(HeadwiseServiceStub(channel).Classify, known, 0) == Outcome("OK")
    assert attacked.log[lines:] == []


def test_version_of_5000_digits_is_not_found(channel: grpc.Channel, known: Known) -> None:
    """And not repeated in full."""
    request = known.request(0)
    request.version = "1" * 5000
    refused = failed(lambda: HeadwiseServiceStub(channel).Classify(request, timeout=SECONDS))
    assert (refused.code, refused.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert len(refused.message) < 300


def test_calls_at_once_beyond_what_the_server_takes_are_refused_in_its_own_words(
    repository: Path, known: Known
) -> None:
    """3,000 of them over 8 connections: a right answer, or the reason and a time to try again; never CANCELLED."""
    outcomes = []
    arguments = ("--engine", "onnxruntime", "--max-queue", "16", "--max-calls", "32", "--max-batch", "1")
    with support.running_server(repository, arguments) as running:
        ready(running)
        channels = [own_channel(running.address) for _ in range(8)]
        calls = [
            HeadwiseServiceStub(channel).Classify.future(known.request(0), timeout=SECONDS)
            for _ in range(3000 // len(channels))
            for channel in channels
        ]
        for call in calls:
            error = call.exception(SECONDS)
            right = Outcome("OK") if not error and known.is_right(call.result(), 0) else Outcome("wrong")
            outcomes.append(outcome(error) if error else right)
        for channel in channels:
            channel.close()
    assert {item for item in outcomes if not item.is_refusal} == {Outcome("OK")}
    assert any(item.is_refusal for item in outcomes)


# Believes after its warm-up that a batch takes a quarter of an hour.
SLOW_WARM_UP = """
from headwise_server.timing import TimedSession

warm_up = TimedSession.warm_up

def slow_warm_up(self, shape):
    outputs = warm_up(self, shape)
    self._seconds[-1] = 1000.0
    return outputs

TimedSession.warm_up = slow_warm_up
"""


def test_no_estimate_locks_callers_out(repository: Path, known: Known) -> None:
    """A server that takes itself for far slower than it is admits whoever comes when it is idle, and learns better."""
    code = f"{SLOW_WARM_UP}\nfrom headwise_server.cli import main; main()"
    with support.running_server(repository, ("--engine", "onnxruntime", "--streams", "1"), code=code) as running:
        ready(running)
        with own_channel(running.address) as channel:
            call = HeadwiseServiceStub(channel).Classify
            assert [answer(call, known, number, seconds=500) for number in range(20)] == [Outcome("OK")] * 20


def test_short_deadline_on_an_idle_server_is_not_refused_by_an_estimate(
    attacked: support.ServerProcess, channel: grpc.Channel, known: Known
) -> None:
    """9 ms may be too short on a busy machine, but that is not for the server to guess."""
    call = HeadwiseServiceStub(channel).Classify
    for number in range(50):
        ended = answer(call, known, number, seconds=0.009)
        assert ended.code in ("OK", "DEADLINE_EXCEEDED")
        assert "expected at least" not in ended.message or "expected at least 0.000 s" in ended.message
        assert answer(call, known, number) == Outcome("OK")  # whose answer shows that the server is idle again


def test_server_that_stood_still_answers_again(repository: Path, known: Known) -> None:
    """It is stopped under six callers with deadlines of 0.3 s: all are answered in time once it goes on."""
    outcomes: list[list[Outcome]] = [[] for _ in range(6)]
    stop = threading.Event()

    def caller(seen: list[Outcome], address: str) -> None:
        with own_channel(address) as channel:
            while not stop.is_set():
                seen.append(answer(HeadwiseServiceStub(channel).Classify, known, len(seen), seconds=0.3))

    def in_time(since: list[int]) -> bool:
        return all(Outcome("OK") in seen[first:] for seen, first in zip(outcomes, since, strict=True))

    with support.running_server(repository, ("--engine", "onnxruntime")) as running, ThreadPoolExecutor(6) as pool:
        ready(running)
        callers = [pool.submit(caller, seen, running.address) for seen in outcomes]
        try:
            support.wait_until(lambda: in_time([0] * 6))
            running.process.send_signal(signal.SIGSTOP)
            before = [len(seen) for seen in outcomes]
            support.wait_until(
                lambda: all(len(seen) > first + 10 for seen, first in zip(outcomes, before, strict=True))
            )
            running.process.send_signal(signal.SIGCONT)
            after = [len(seen) for seen in outcomes]
            support.wait_until(lambda: in_time(after))
        finally:
            running.process.send_signal(signal.SIGCONT)
            stop.set()
        for ended in callers:
            ended.result(SECONDS)
    assert {item.code for seen in outcomes for item in seen} <= {"OK", "DEADLINE_EXCEEDED"}
