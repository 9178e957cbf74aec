"""Load for a Headwise server, and what became of every call.

Open loop: calls are sent at the times of a Poisson process, whatever became of the earlier ones, as many clients that
know nothing of each other send them. Closed loop: each of so many callers sends its next call after the answer to its
last one, which finds how much a server can do, but not how long calls wait at a given rate: a slow server slows the
callers down.

Everything runs on one event loop in one thread. Requests are serialised before; of a reply, only its timings are read,
and its logits where they are to be verified. What the client itself costs is measured: by how much it lags behind its
schedule, and the share of the time that its loop is busy.

Calls follow from the seed: when each comes, of which RPC it is, and whether it is cancelled.
"""

import asyncio
import gc
import random
import selectors
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from headwise.access import Access
from headwise.client import MAX_MESSAGE_BYTES
from headwise.errors import InvalidRequest, NotFound, PermissionDenied, Unauthenticated, from_rpc_error, make_error
from headwise.load_requests import Requests
from headwise.load_samples import (
    CANCELLED,
    NOT_SENT,
    OK,
    UNFINISHED,
    UNREADABLE,
    Outcome,
    Samples,
    Timings,
    error_outcome,
)
from headwise.messages import served_model
from headwise.results import ServedModel
from headwise.v1 import service_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["HeadwiseService"].full_name
REPLIES: tuple[type[Any], ...] = (pb.ClassifyResponse, pb.ExplainResponse)  # by whether a call is an Explain
MAX_CALLS = 5_000_000  # of one run: their samples take 165 MB
CONNECT_SECONDS = 10.0
RECONNECT_MS = 1000  # at most, so that a server that comes back is seen at once
TOLERANCE = 1e-5  # of logits, absolute and relative
SHOW_SECONDS = 0.5

Metadata = tuple[tuple[str, str], ...]
Show = Callable[[float, Samples, int], None]  # seconds since the start, what is known, calls in flight


@dataclass(frozen=True)
class LoadSettings:
    """What to send.

    Raises:
        ValueError: neither a rate nor callers, both, or more calls than fit.
    """

    seconds: float
    rate: float | None = None  # calls a second on average, in an open loop
    callers: int | None = None  # of a closed loop
    explain_share: float = 0.0  # of the calls
    deadline_seconds: float = 30.0
    cancel_share: float = 0.0  # of the calls, each after a random part of its deadline
    connections: int = 1
    max_in_flight: int = 10_000  # calls; what would exceed it is not sent
    seed: int = 0
    verify: bool = False  # compare every reply's logits with those of the first reply to the same request

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.callers is None):
            raise ValueError("expected either a rate or callers")
        if self.rate and self.rate * self.seconds > MAX_CALLS:
            raise ValueError(f"expected at most {MAX_CALLS:,} calls, found {self.rate * self.seconds:,.0f}")


@dataclass(frozen=True)
class Call:
    """One call of the schedule."""

    number: int
    scheduled_seconds: float  # since the start
    explain: bool
    cancel_after_seconds: float | None  # since its scheduled time


@dataclass(frozen=True)
class Measurement:
    """What a run saw."""

    samples: Samples
    model: ServedModel | None  # of the first answer; None where there was none
    seconds: float  # in which calls were scheduled
    interrupted: bool
    busy_share: float  # of the time, by the client's event loop


class _Choices:
    """What is chosen at random of each call; each choice has a stream of its own, so that none changes another."""

    def __init__(self, settings: LoadSettings) -> None:
        self._settings, self._number = settings, 0
        self._gaps, self._explain, self._cancel = (
            random.Random(f"{settings.seed} {name}") for name in ("gaps", "explain", "cancel")
        )

    def gap_seconds(self) -> float:
        return self._gaps.expovariate(self._settings.rate or 0.0)

    def call(self, scheduled_seconds: float) -> Call:
        settings, number = self._settings, self._number
        self._number += 1
        cancelled, part = self._cancel.random() < settings.cancel_share, self._cancel.random()
        return Call(
            number=number,
            scheduled_seconds=scheduled_seconds,
            explain=self._explain.random() < settings.explain_share,
            cancel_after_seconds=part * settings.deadline_seconds if cancelled else None,
        )


def poisson_schedule(settings: LoadSettings) -> Iterator[Call]:
    """The calls of an open loop, with exponential gaps of mean 1 / rate, until the time is over."""
    choices = _Choices(settings)
    scheduled = choices.gap_seconds()
    while scheduled < settings.seconds:
        yield choices.call(scheduled)
        scheduled += choices.gap_seconds()


def open_channels(target: str, connections: int, access: Access) -> list[grpc.aio.Channel]:
    """Channels that share no connection."""
    options: list[tuple[str, int | str]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
    ]
    return [access.aio_channel(target, options) for _ in range(connections)]


async def _connect(target: str, channels: list[grpc.aio.Channel]) -> None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
    except TimeoutError:
        raise make_error(
            grpc.StatusCode.UNAVAILABLE,
            f"expected {len(channels)} connections to {target} within {CONNECT_SECONDS:.0f} s. Start a server there "
            "with `headwise-server`, or name another address.",
        ) from None


async def _outcome_of_error(rpc: Any, code: grpc.StatusCode) -> Outcome:
    try:
        status = await rpc_status.aio.from_call(rpc)
    except (ValueError, DecodeError):  # details that are not those of this error
        status = None
    info = ErrorInfo()
    reasons = [info.reason for detail in (status.details if status else ()) if detail.Unpack(info)]
    return error_outcome(code.name, reasons[0] if reasons else "")


class _Sender:
    """Sends the calls of one run over its channels."""

    def __init__(
        self, channels: list[grpc.aio.Channel], requests: Requests, settings: LoadSettings, metadata: Metadata
    ) -> None:
        self.settings, self.samples = settings, Samples()
        self.in_flight: set[asyncio.Task[None]] = set()
        self.started = 0.0  # on the event loop's clock
        self._clock = asyncio.get_running_loop().time
        self._requests = (requests.classify, requests.explain)
        self._methods: list[list[Any]] = [
            [partial(channel.unary_unary(f"/{SERVICE}/{name}"), metadata=metadata) for name in ("Classify", "Explain")]
            for channel in channels
        ]
        self._first_logits: dict[tuple[bool, int], list[bytes]] = {}

    def now(self) -> float:
        return self._clock() - self.started

    async def check(self, target: str) -> ServedModel | None:
        """Send a request of each kind that is needed, before anything is measured; returns the model that answered.

        Raises:
            HeadwiseError: the request is wrong. A server that is merely too busy is what is to be measured.
        """
        shares = (1 - self.settings.explain_share, self.settings.explain_share)
        model = None
        for kind, (method, requests, share) in enumerate(zip(self._methods[0], self._requests, shares, strict=True)):
            if share:
                try:
                    data = await method(requests[0], timeout=self.settings.deadline_seconds)
                    model = served_model(REPLIES[kind].FromString(data).model)
                except grpc.aio.AioRpcError as error:
                    failure = from_rpc_error(error, target)
                    if isinstance(failure, (InvalidRequest, NotFound, PermissionDenied, Unauthenticated)):
                        raise failure from error
                except DecodeError:
                    pass  # a server that is no Headwise server: every call of the run will say so
        return model

    async def open_loop(self) -> None:
        for call in poisson_schedule(self.settings):
            await asyncio.sleep(max(0.0, call.scheduled_seconds - self.now()))
            if len(self.in_flight) >= self.settings.max_in_flight:
                self.samples.add(call.scheduled_seconds, NOT_SENT, explain=call.explain)
            else:
                self._begin(self._send(call))

    async def closed_loop(self) -> None:
        choices = _Choices(self.settings)

        async def one_after_another() -> None:
            while self.now() < self.settings.seconds and len(self.samples) < MAX_CALLS:
                await self._send(choices.call(self.now()))

        for _ in range(self.settings.callers or 0):
            self._begin(one_after_another())
        await asyncio.sleep(self.settings.seconds)

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.in_flight.add(task)
        task.add_done_callback(self.in_flight.discard)

    async def finish(self) -> None:
        """Wait for what is in flight: every call has a deadline."""
        if self.in_flight:
            await asyncio.wait(self.in_flight)

    async def interrupt(self) -> None:
        """Give up what is in flight."""
        for task in self.in_flight:
            task.cancel()
        await self.finish()

    async def _send(self, call: Call) -> None:
        requests, methods = self._requests[call.explain], self._methods[call.number % len(self._methods)]
        index = call.number % len(requests)
        lag = np.nan if self.settings.rate is None else self.now() - call.scheduled_seconds
        rpc = methods[call.explain](requests[index], timeout=self.settings.deadline_seconds)
        timer = None
        if call.cancel_after_seconds is not None:
            cancel_at = self.started + call.scheduled_seconds + call.cancel_after_seconds
            timer = asyncio.get_running_loop().call_at(cancel_at, rpc.cancel)
        outcome, latency, timings = UNFINISHED, np.nan, None
        try:
            code = await rpc.code()  # raises nothing, whatever became of the call
            latency = self.now() - call.scheduled_seconds
            if code == grpc.StatusCode.OK:
                outcome, timings = self._read(await rpc, call, index)
            else:
                outcome = CANCELLED if rpc.cancelled() else await _outcome_of_error(rpc, code)
        except asyncio.CancelledError:  # of this task, by an interrupt
            rpc.cancel()
            raise
        finally:
            if timer:
                timer.cancel()
            self.samples.add(
                call.scheduled_seconds, outcome, explain=call.explain, lag=lag, latency=latency, timings=timings
            )

    def _read(self, data: bytes, call: Call, index: int) -> tuple[Outcome, Timings | None]:
        try:
            reply = REPLIES[call.explain].FromString(data)
        except DecodeError:
            return UNREADABLE, None
        if self.settings.verify:
            logits = [result.logits for result in (reply.explanations if call.explain else reply.classifications)]
            first = self._first_logits.setdefault((call.explain, index), logits)
            self.samples.wrong_replies += not _are_close(logits, first)
        timings = reply.timings
        return OK, Timings(timings.queue_seconds, timings.inference_seconds, timings.total_seconds)


def _are_close(logits: list[bytes], first: list[bytes]) -> bool:
    """Whether float32 logits of the images of two replies are equal up to the tolerance."""
    if [len(image) for image in logits] != [len(image) for image in first] or any(len(image) % 4 for image in logits):
        return False
    values, expected = (np.frombuffer(b"".join(images), "<f4") for images in (logits, first))
    return np.allclose(values, expected, rtol=TOLERANCE, atol=TOLERANCE)


async def _show(sender: _Sender, show: Show) -> None:
    while True:
        show(sender.now(), sender.samples, len(sender.in_flight))
        await asyncio.sleep(SHOW_SECONDS)


async def _run(
    target: str, requests: Requests, settings: LoadSettings, show: Show | None, access: Access
) -> Measurement:
    channels = open_channels(target, settings.connections, access)
    shown = None
    try:
        await _connect(target, channels)
        sender = _Sender(channels, requests, settings, access.metadata(target))
        model = await sender.check(target)
        gc.freeze()  # what is there by now is not looked through again and again while calls are timed
        sender.started, busy = asyncio.get_running_loop().time(), time.thread_time()
        shown = asyncio.create_task(_show(sender, show)) if show else None
        interrupted, seconds, busy_seconds = False, settings.seconds, 0.0
        try:
            await (sender.closed_loop() if settings.rate is None else sender.open_loop())
            await asyncio.sleep(settings.seconds - sender.now())
            busy_seconds = time.thread_time() - busy
            await sender.finish()
        except asyncio.CancelledError:  # Ctrl-C: what is known by now is the result
            interrupted = True
            seconds = min(settings.seconds, sender.now())
            busy_seconds = busy_seconds or time.thread_time() - busy
            await sender.interrupt()
        return Measurement(sender.samples, model, seconds, interrupted, busy_seconds / seconds)
    finally:
        gc.unfreeze()
        if shown:
            shown.cancel()
        await asyncio.gather(*(channel.close() for channel in channels))


def _event_loop() -> asyncio.AbstractEventLoop:
    """One that wakes to the microsecond: those on epoll and poll round waits up to milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def run(
    target: str, requests: Requests, settings: LoadSettings, show: Show | None = None, access: Access | None = None
) -> Measurement:
    """Send load to a server and wait for every answer. The first Ctrl-C ends it with what is known by then.

    Args:
        target: address and port of the server.
        show: called twice a second, on the event loop: it should take no time.
        access: TLS and a token, where the server asks for them.

    Raises:
        HeadwiseError: no server is there, or a request is wrong.
    """
    with asyncio.Runner(loop_factory=_event_loop) as runner:
        return runner.run(_run(target, requests, settings, show, access or Access()))
