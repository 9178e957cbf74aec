"""What happens to every call before its handler, over a connection, with the smallest handler there is."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
import support
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from headwise.v1 import service_pb2 as pb
from headwise.v1 import service_pb2_grpc
from headwise_server import reception
from headwise_server.errors import Internal, NotFound, NotReady, ServiceError
from headwise_server.gate import Gate
from headwise_server.in_flight import InFlight
from headwise_server.memory import Memory
from headwise_server.receiving import COPIES, Arrived, Receiving
from headwise_server.reception import Context, Reception, as_service_error
from headwise_server.telemetry import Telemetry

CLASSIFY, STREAM = (f"/headwise.v1.HeadwiseService/{method}" for method in ("Classify", "ClassifyStream"))
MAX_MESSAGE_BYTES = 1000
BUDGET_BYTES = (COPIES + 1) * MAX_MESSAGE_BYTES  # of which slow uploads leave two thirds of what one may need
MAX_FIELDS, TURNS = 50, 2


class Service(service_pb2_grpc.HeadwiseServiceServicer):
    """Answers with the name of the model that it is asked for, when it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """An error of ours, one of another, or an answer."""
        self.asked += 1
        await self.may_answer.wait()
        if request.model == "unknown":
            raise NotFound("unknown", "not here.")
        if request.model == "broken":
            raise ZeroDivisionError
        return pb.ClassifyResponse(model=pb.ServedModel(name=request.model))

    async def ClassifyStream(  # type: ignore[override]  # as reception has it
        self, request_iterator: AsyncIterator[Arrived[pb.ClassifyStreamRequest]], context: Context
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        """The names of requests."""
        async for arrived in request_iterator:
            yield pb.ClassifyStreamResponse(request_id=(await arrived.parsed()).request_id)


@dataclass
class Running:
    """A server in this process, and its only client."""

    service: Service
    in_flight: InFlight
    memory: Memory
    receiving: Receiving
    telemetry: Telemetry
    address: str
    channel: grpc.aio.Channel

    def open(self) -> grpc.aio.StreamUnaryCall:
        """A call of Classify whose request has not been sent."""
        return self.channel.stream_unary(CLASSIFY)()

    async def classify(self, content: bytes) -> bytes:
        """The reply to a request in bytes."""
        reply: bytes = await self.channel.unary_unary(CLASSIFY)(content)
        return reply


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """A server with room for one slow upload of a client, with two turns, and for four calls."""
    service, in_flight, memory = Service(), InFlight(), Memory(BUDGET_BYTES)
    receiving = Receiving(memory, TURNS, MAX_MESSAGE_BYTES)
    received = Reception(
        ("headwise.v1.HeadwiseService",),
        in_flight,
        receiving,
        Gate(),
        max_calls=4,
        max_fields=MAX_FIELDS,
        telemetry=(telemetry := Telemetry()),
    )
    server = grpc.aio.server(interceptors=[received])
    service_pb2_grpc.add_HeadwiseServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield Running(service, in_flight, memory, receiving, telemetry, address, channel)
    await server.stop(None)


def request(model: str = "") -> bytes:
    """A request in bytes."""
    return pb.ClassifyRequest(model=model).SerializeToString()


async def until(running: Running, used_bytes: int) -> None:
    """Wait until so much memory is counted."""
    await asyncio.to_thread(support.wait_until, lambda: running.memory.used_bytes == used_bytes)


async def until_asked(running: Running, requests: int) -> None:
    """Wait until so many requests have reached the handler."""
    await asyncio.to_thread(support.wait_until, lambda: running.service.asked == requests)


async def refusal(call: grpc.aio.Call) -> tuple[grpc.StatusCode, str, list[type[Message]]]:
    """Code, reason and further details of a call that ends with an error of ours."""
    code, status = await call.code(), await rpc_status.aio.from_call(call)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    kinds = (error_details_pb2.RetryInfo, error_details_pb2.BadRequest, error_details_pb2.ResourceInfo)
    return code, info.reason, [kind for detail in status.details[1:] for kind in kinds if detail.Is(kind.DESCRIPTOR)]


async def test_slow_upload_is_charged_with_its_largest_size(running: Running) -> None:
    """As long as it lasts, and answered when it is complete; then nothing is charged any more."""
    call = running.open()
    await until(running, MAX_MESSAGE_BYTES)
    await call.write(request("late"))
    assert pb.ClassifyResponse.FromString(await call).model.name == "late"
    await until(running, 0)


async def test_slow_upload_is_refused_where_there_is_no_room(running: Running) -> None:
    """With a time to try again, while the one that has room goes on and a fast one is served."""
    slow = running.open()
    await until(running, MAX_MESSAGE_BYTES)
    expected = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", [error_details_pb2.RetryInfo])
    assert await refusal(running.open()) == expected
    await running.classify(request())
    await slow.write(request("first"))
    assert pb.ClassifyResponse.FromString(await slow).model.name == "first"


async def test_slow_upload_is_ended_after_its_time(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is free again."""
    monkeypatch.setattr(reception, "UPLOAD_SECONDS", 0.01)
    call = running.open()
    assert await refusal(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNMEETABLE", [])
    assert "expected the request within" in await call.details()
    await until(running, 0)


async def test_upload_that_its_client_gives_up_is_charged_no_more(running: Running) -> None:
    """Nobody is told."""
    call = running.open()
    await until(running, MAX_MESSAGE_BYTES)
    call.cancel()
    await until(running, 0)
    await running.in_flight.drain()


async def test_stream_that_waits_for_its_client_counts_as_a_slow_upload(running: Running) -> None:
    """For as long as it takes; each message is answered, and nothing is charged when the stream has ended."""
    stream = running.channel.stream_stream(STREAM)()
    for number in range(2):
        await until(running, MAX_MESSAGE_BYTES)
        await stream.write(pb.ClassifyStreamRequest(request_id=str(number)).SerializeToString())
        assert pb.ClassifyStreamResponse.FromString(await stream.read()).request_id == str(number)
    await stream.done_writing()
    assert await stream.code() == grpc.StatusCode.OK
    await until(running, 0)


async def test_stream_that_waits_is_refused_where_there_is_no_room(running: Running) -> None:
    """With a time to try again."""
    running.memory.take("others", BUDGET_BYTES)
    expected = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", [error_details_pb2.RetryInfo])
    assert await refusal(running.channel.stream_stream(STREAM)()) == expected


async def test_server_that_was_held_up_answers_a_small_call_all_the_same(running: Running) -> None:
    """Though there is no room for a slow upload, and the event loop stood still as often as the call went on."""
    running.memory.take("others", BUDGET_BYTES - 500)

    def classify() -> bytes:
        with grpc.insecure_channel(running.address) as channel:
            reply: bytes = channel.unary_unary(CLASSIFY)(request("small"), timeout=support.LONG_SECONDS)
        return reply

    call = asyncio.ensure_future(asyncio.to_thread(classify))
    for _ in range(20):
        time.sleep(0.06)  # noqa: ASYNC251  # it is to stand still
        await asyncio.sleep(0)
    assert pb.ClassifyResponse.FromString(await call).model.name == "small"


async def until_waiting(running: Running, calls: int) -> None:
    """Wait until so many calls wait for their turn."""
    await asyncio.to_thread(support.wait_until, lambda: running.receiving.turns.waiting == calls)


async def test_calls_that_wait_for_their_turn_are_answered_by_a_server_that_drains(running: Running) -> None:
    """They came before; the drain ends with them."""
    for _ in range(TURNS):
        await running.receiving.turns.take("others")
    calls = [asyncio.ensure_future(running.classify(request(str(number)))) for number in range(3)]
    await until_waiting(running, 3)
    drained = asyncio.ensure_future(running.in_flight.drain())
    await asyncio.sleep(0)
    running.receiving.turns.give_back()
    names = [pb.ClassifyResponse.FromString(reply).model.name for reply in await asyncio.gather(*calls)]
    assert names == ["0", "1", "2"]
    await drained


async def test_calls_that_wait_for_their_turn_end_with_the_grace_time(running: Running) -> None:
    """With UNAVAILABLE."""
    for _ in range(TURNS):
        await running.receiving.turns.take("others")
    call = running.channel.unary_unary(CLASSIFY)(request())
    await until_waiting(running, 1)
    await running.in_flight.end()
    assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY", [])
    await until_waiting(running, 0)


async def test_call_leaves_when_its_deadline_passes_while_it_waits_for_its_turn(running: Running) -> None:
    """Its client is told by gRPC."""
    for _ in range(TURNS):
        await running.receiving.turns.take("others")
    call = running.channel.unary_unary(CLASSIFY)(request(), timeout=0.2)
    assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until_waiting(running, 0)
    await running.in_flight.drain()


@pytest.mark.parametrize("code", ["CANCELLED", "DEADLINE_EXCEEDED"])
async def test_call_that_grpc_has_ended_is_sent_no_status(
    running: Running, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Which nobody would get, and for which gRPC's core would keep memory; it is no refusal either."""
    made: list[ServiceError] = []
    monkeypatch.setattr(ServiceError, "grpc_status", made.append)
    running.service.may_answer.clear()
    call = running.channel.unary_unary(CLASSIFY)(request(), timeout=0.5 if code == "DEADLINE_EXCEEDED" else None)
    await until_asked(running, 1)
    if code == "CANCELLED":
        call.cancel()
    assert (await call.code()).name == code
    await running.in_flight.drain()
    labels = {"service": "headwise.v1.HeadwiseService", "method": "Classify", "code": code}
    assert running.telemetry.registry.get_sample_value("headwise_requests_total", labels) == 1
    assert not next(iter(running.telemetry.refusals.collect())).samples
    assert made == []


async def test_request_is_charged_while_it_is_worked_on(running: Running) -> None:
    """By more than the copies of it; all is given back at the end."""
    content = request("m" * 500)
    running.service.may_answer.clear()
    answer = asyncio.ensure_future(running.classify(content))
    await until_asked(running, 1)
    assert running.memory.used_bytes >= COPIES * len(content)
    running.service.may_answer.set()
    await answer
    await until(running, 0)


async def test_request_without_room_is_refused(running: Running) -> None:
    """Before its handler sees it."""
    running.memory.take("others", running.memory.limit_bytes)
    call = running.channel.unary_unary(CLASSIFY)(request())
    expected = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", [error_details_pb2.RetryInfo])
    assert await refusal(call) == expected
    assert running.service.asked == 0


async def test_calls_beyond_the_limit_are_refused(running: Running) -> None:
    """The fifth of four, with a time to try again; those in hand are answered."""
    running.service.may_answer.clear()
    calls = [asyncio.ensure_future(running.classify(request(str(number)))) for number in range(4)]
    await until_asked(running, 4)
    call = running.channel.unary_unary(CLASSIFY)(request())
    expected = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", [error_details_pb2.RetryInfo])
    assert await refusal(call) == expected
    running.service.may_answer.set()
    names = [pb.ClassifyResponse.FromString(reply).model.name for reply in await asyncio.gather(*calls)]
    assert names == ["0", "1", "2", "3"]


async def test_server_that_drains_refuses_what_is_new(running: Running) -> None:
    """With UNAVAILABLE, which clients repeat elsewhere."""
    await running.in_flight.drain()
    assert await refusal(running.channel.unary_unary(CLASSIFY)(request())) == (
        grpc.StatusCode.UNAVAILABLE,
        "NOT_READY",
        [],
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"\xff" * 30, "expected a protobuf message, found 30 other bytes", id="junk"),
        pytest.param(b"\x0a\x00" * (MAX_FIELDS + 1), f"expected at most {MAX_FIELDS} fields", id="many fields"),
    ],
)
async def test_what_is_no_request_is_refused(running: Running, content: bytes, expected: str) -> None:
    """With a field violation."""
    call = running.channel.unary_unary(CLASSIFY)(content)
    assert await refusal(call) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        [error_details_pb2.BadRequest],
    )
    assert expected in await call.details()


async def test_call_that_ends_without_a_request_is_refused(running: Running) -> None:
    """A stream of none, as a unary call may look."""
    call = running.open()
    await call.done_writing()
    assert (await refusal(call))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_errors_of_a_handler_reach_the_client(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Ours as they are; an unforeseen one as INTERNAL, and in the log."""
    unknown = running.channel.unary_unary(CLASSIFY)(request("unknown"))
    expected = (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", [error_details_pb2.ResourceInfo])
    assert await refusal(unknown) == expected
    assert not caplog.records
    broken = running.channel.unary_unary(CLASSIFY)(request("broken"))
    assert await refusal(broken) == (grpc.StatusCode.INTERNAL, "INTERNAL", [])
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "ZeroDivisionError" not in await broken.details()


async def test_refused_calls_leave_nothing_behind(running: Running) -> None:
    """No request stays in memory until the garbage collector comes."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await refusal(running.channel.unary_unary(CLASSIFY)(request("unknown")))
        await running.in_flight.drain()
        left = [thing for thing in gc.get_objects() if type(thing) is NotFound]
    finally:
        gc.enable()
    assert running.memory.used_bytes == 0
    assert len(left) <= 1


def test_unforeseen_error_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The client learns that the log has it, and nothing of the server's insides; known errors pass as they are."""
    error = as_service_error(KeyError("secret"))
    assert isinstance(error, Internal)
    assert "secret" not in str(error)
    assert "secret" in caplog.text
    known = NotReady("wait.")
    assert as_service_error(known) is known


def test_error_keeps_nothing_of_the_frame_that_handles_it() -> None:
    """Though that frame still runs, and goes on for as long as a stream."""

    class Large:
        pass

    def handle() -> tuple[BaseException, weakref.ref[Large]]:
        large = Large()
        try:
            raise NotReady("wait.")
        except NotReady as error:
            refusal = as_service_error(error)
        return refusal, weakref.ref(large)

    gc.disable()
    try:
        _, large = handle()
        assert large() is None
    finally:
        gc.enable()
