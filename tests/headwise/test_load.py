"""Load for a server: when calls are sent, and what becomes of each."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import support
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from headwise import Client, InvalidRequest, Unavailable, load
from headwise.load import LoadSettings, poisson_schedule
from headwise.load_requests import Requests, make_requests
from headwise.load_samples import CANCELLED, GROUPS, UNREADABLE, Samples, columns
from headwise.v1 import service_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import expon, kstest

IMPROBABLE = 1e-9  # a p-value that no number of runs of the tests will see by chance
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)


def digits(images_per_call: int = 1) -> Requests:
    """Requests that the tests' model takes."""
    return make_requests(list(PIXELS), images_per_call)


@given(seed=st.integers(0, 2**32), rate=st.floats(0.5, 5e3))
def test_calls_come_as_a_poisson_process(seed: int, rate: float) -> None:
    """Gaps are exponential with mean 1 / rate; the seed decides all."""
    settings = LoadSettings(seconds=500 / rate, rate=rate, seed=seed)
    calls = list(poisson_schedule(settings))
    times = np.array([0.0, *(call.scheduled_seconds for call in calls)])
    assert (np.diff(times) > 0).all()
    assert times[-1] < settings.seconds
    assert abs(len(calls) - 500) < 6 * 500**0.5  # six deviations
    assert kstest(np.diff(times) * rate, expon.cdf).pvalue > IMPROBABLE
    assert calls == list(poisson_schedule(settings))
    assert calls != list(poisson_schedule(replace(settings, seed=seed + 1)))


@given(explain_share=st.floats(0, 1), cancel_share=st.floats(0, 1), deadline_seconds=st.floats(0.01, 60))
def test_what_calls_are_does_not_change_when_they_come(
    explain_share: float, cancel_share: float, deadline_seconds: float
) -> None:
    """Each choice has a random stream of its own, shares are kept, and cancelling comes before the deadline."""
    plain = LoadSettings(seconds=1.0, rate=500)
    mixed = replace(plain, explain_share=explain_share, cancel_share=cancel_share, deadline_seconds=deadline_seconds)
    calls = list(poisson_schedule(mixed))
    assert [c.scheduled_seconds for c in calls] == [c.scheduled_seconds for c in poisson_schedule(plain)]
    for share, chosen in (
        (explain_share, [call.explain for call in calls]),
        (cancel_share, [call.cancel_after_seconds is not None for call in calls]),
    ):
        assert abs(sum(chosen) - share * len(calls)) <= 6 * (len(calls) * share * (1 - share)) ** 0.5
    assert all(0 <= (call.cancel_after_seconds or 0) <= deadline_seconds for call in calls)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, "either"), ({"rate": 1.0, "callers": 1}, "either"), ({"rate": 1e6}, "at most 5,000,000 calls")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], expected: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=expected):
        LoadSettings(seconds=10, **settings)  # type: ignore[arg-type]  # of any kind


@pytest.mark.parametrize("loop", [{"rate": 150.0}, {"callers": 4}], ids=["open", "closed"])
def test_every_call_is_counted_once(server: support.ServerProcess, loop: dict[str, float]) -> None:
    """Classify and Explain over two connections, some cancelled: each call of the schedule is in one group."""
    settings = LoadSettings(
        seconds=1.0,
        explain_share=0.3,
        cancel_share=0.5,
        connections=2,
        verify=True,
        **loop,  # type: ignore[arg-type]  # of any kind
    )
    measurement = load.run(server.address, digits(2), settings)
    samples, table = measurement.samples, columns(measurement.samples)
    assert not measurement.interrupted
    assert len(samples) == sum(samples.counts[group] for group in GROUPS)
    assert samples.counts["ok"] > 0
    assert samples.wrong_replies == 0
    if "rate" in loop:
        calls = list(poisson_schedule(settings))
        assert sorted(table.scheduled) == [call.scheduled_seconds for call in calls]
        assert table.explain.sum() == sum(call.explain for call in calls)
    ok = table.groups == "ok"
    assert (np.maximum(table.queue, table.inference) <= table.total)[ok].all()
    assert (table.total < table.latency)[ok].all()


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process stands still."""
    states = [(task / "stat").read_text("ascii") for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(state.rpartition(")")[2].split()[0] == "T" for state in states)


class Stall:
    """Stops a server for a second while calls go on being scheduled; a `Show` of a load generator."""

    def __init__(self, process: int, seconds: float) -> None:
        self.process, self.seconds = process, seconds
        self.stopped_at = self.went_on_at = 0.0  # since the start of the load

    def __call__(self, now: float, samples: Samples, in_flight: int) -> None:
        """Stop the server after its first answer, and let it go on later."""
        if not self.stopped_at and samples.counts["ok"]:
            os.kill(self.process, signal.SIGSTOP)
            support.wait_until(lambda: is_stopped(self.process))
            self.stopped_at = now
        elif self.stopped_at and not self.went_on_at and now > self.stopped_at + self.seconds:
            self.went_on_at = now
            os.kill(self.process, signal.SIGCONT)


def stalled_run(server: support.ServerProcess, settings: LoadSettings) -> tuple[Samples, Stall]:
    """A run in which the server stands still for a while."""
    stall = Stall(server.process.pid, 1.0)
    try:
        samples = load.run(server.address, digits(), settings, stall).samples
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert stall.went_on_at, "the run was over before the server went on"
    return samples, stall


@pytest.fixture
def own_server(repository: Path) -> Iterator[support.ServerProcess]:
    """A server that a test may stop."""
    with support.running_server(repository, ["--engine", "onnxruntime"]) as running:
        with Client(running.address, timeout_seconds=support.LONG_SECONDS) as client:
            client.wait_until_ready(support.LONG_SECONDS)
        yield running


def test_latency_of_calls_in_a_stall_includes_the_stall(own_server: support.ServerProcess) -> None:
    """Each call that was due while the server stood still waited until it went on; none was left out or sent late."""
    settings = LoadSettings(seconds=8.0, rate=50.0, deadline_seconds=support.LONG_SECONDS)
    samples, stall = stalled_run(own_server, settings)
    table = columns(samples)
    due = (table.scheduled > stall.stopped_at) & (table.scheduled < stall.went_on_at)
    assert due.sum() > 10
    assert (table.scheduled + table.latency >= stall.went_on_at - 1e-3)[due].all()
    assert samples.counts["ok"] == len(list(poisson_schedule(settings)))


def test_calls_beyond_the_bound_in_flight_are_not_sent_but_counted(own_server: support.ServerProcess) -> None:
    """While a server stands still, no more than the bound are out."""
    settings = LoadSettings(seconds=8.0, rate=50.0, max_in_flight=3, deadline_seconds=support.LONG_SECONDS)
    samples, stall = stalled_run(own_server, settings)
    table = columns(samples)
    due = (table.scheduled > stall.stopped_at) & (table.scheduled < stall.went_on_at)
    assert (table.groups[due] != "not_sent").sum() <= 3
    assert samples.counts["not_sent"] >= due.sum() - 3
    assert samples.counts["ok"] + samples.counts["not_sent"] == len(list(poisson_schedule(settings)))


def test_client_that_lags_behind_says_so(server: support.ServerProcess) -> None:
    """What keeps its event loop busy delays the sending; the latency counts from the schedule and holds that delay."""
    settings = LoadSettings(seconds=1.5, rate=100.0)
    samples = load.run(server.address, digits(), settings, lambda *known: time.sleep(0.25)).samples
    table = columns(samples)
    assert table.lag.max() > 0.1
    assert (table.latency > table.lag).all()


def test_refusals_have_their_reason(scripted_server: Any) -> None:
    """Of the server's ErrorInfo; a call that gRPC fails by itself has none."""

    def refuse(number: int, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        if number % 2:
            context.abort(grpc.StatusCode.INTERNAL, "no details")
        status = status_pb2.Status(code=8, message="full")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="headwise"))
        context.abort_with_status(rpc_status.to_status(status))

    scripted_server.answer = refuse
    samples = load.run(scripted_server.address, digits(), LoadSettings(seconds=0.3, callers=2)).samples
    assert set(samples.outcomes) == {("failed", "INTERNAL", ""), ("refused", "RESOURCE_EXHAUSTED", "QUEUE_FULL")}


def test_reply_that_differs_is_wrong(scripted_server: Any) -> None:
    """Every fourth one, by little more than the tolerance; by less is right."""

    def answer(number: int, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        logits = np.float32([1 + 1e-6 * (number % 2), 2 + 1e-3 * (number % 4 == 0)])
        return pb.ClassifyResponse(classifications=[pb.Classification(logits=logits.tobytes())])

    scripted_server.answer = answer
    one_request = make_requests([PIXELS[0]], 1)
    samples = load.run(scripted_server.address, one_request, LoadSettings(seconds=0.3, callers=1, verify=True)).samples
    assert samples.counts["ok"] == len(samples)
    assert samples.wrong_replies == scripted_server.calls // 4  # the first call, which is not measured, is right


def test_overloaded_server_refuses_with_its_reason(repository: Path) -> None:
    """A real one whose queue holds one call: some calls are answered, others refused, and every answer is right."""
    with support.running_server(repository, ["--engine", "onnxruntime", "--max-queue", "8"]) as crowded:
        with Client(crowded.address, timeout_seconds=support.LONG_SECONDS) as client:
            client.wait_until_ready(support.LONG_SECONDS)
        settings = LoadSettings(seconds=2.0, callers=32, verify=True)
        measurement = load.run(crowded.address, digits(8), settings)
    samples = measurement.samples
    assert samples.counts["ok"] > 0
    assert {outcome.code for outcome in samples.outcomes if outcome.reason} == {"RESOURCE_EXHAUSTED"}
    assert samples.counts["refused"] > 0
    assert samples.wrong_replies == 0
    assert measurement.model is not None
    assert (measurement.model.name, measurement.model.engine) == ("digits", "onnxruntime")


def test_reply_of_another_kind_is_a_failure() -> None:
    """Bytes that are no reply of this server are counted, and the run goes on."""
    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Classify": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(load.SERVICE, handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    measurement = load.run(address, digits(), LoadSettings(seconds=0.3, callers=2))
    server.stop(None).wait()
    assert measurement.model is None
    assert measurement.samples.outcomes == [UNREADABLE]


def test_call_that_runs_out_of_time_failed(scripted_server: Any) -> None:
    """The deadline goes with the call, and nothing waits beyond it."""
    scripted_server.answer = lambda number, context: time.sleep(0.2) or pb.ClassifyResponse()
    settings = LoadSettings(seconds=0.5, rate=20.0, deadline_seconds=0.05)
    samples = load.run(scripted_server.address, digits(), settings).samples
    assert set(samples.outcomes) == {("failed", "DEADLINE_EXCEEDED", "")}
    assert columns(samples).latency.min() > 0.04


def test_cancelled_calls_are_those_that_this_client_cancelled(scripted_server: Any) -> None:
    """Before their deadline; they are neither refused nor failed."""
    scripted_server.answer = lambda number, context: time.sleep(0.5) or pb.ClassifyResponse()
    settings = LoadSettings(seconds=0.5, rate=60.0, deadline_seconds=0.3, cancel_share=1.0)
    samples = load.run(scripted_server.address, digits(), settings).samples
    assert set(samples.outcomes) <= {CANCELLED, ("failed", "DEADLINE_EXCEEDED", "")}  # both may come at a time
    assert samples.counts["cancelled"] > samples.counts["failed"]


def test_request_that_is_wrong_ends_the_run_at_once(server: support.ServerProcess) -> None:
    """As the client's own error: nothing of it says anything about the server's speed."""
    with pytest.raises(InvalidRequest, match="expected an image"):
        load.run(server.address, make_requests([b"no image"], 1), LoadSettings(seconds=600, rate=1.0))


def test_server_that_is_not_there_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds, in which it may still be starting."""
    monkeypatch.setattr(load, "CONNECT_SECONDS", 0.1)
    with pytest.raises(Unavailable, match=r"expected 3 connections to 127\.0\.0\.1:1 within"):
        load.run("127.0.0.1:1", digits(), LoadSettings(seconds=600, rate=1.0, connections=3))
