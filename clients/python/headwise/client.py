"""Clients of a Headwise server: `Client` blocks, `AsyncClient` awaits; both have the same methods and results.

    with Client("localhost:50051") as client:
        [classification] = client.classify(["digit.png"])
        print(classification.top[0].label)

Every call has a timeout; of `classify_stream` it bounds how long the server may be silent. A failed call raises a
`headwise.errors.HeadwiseError`, never a bare grpc error. What is asked in what order is in `conversation`.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from headwise import messages
from headwise.access import Access, Tls
from headwise.conversation import Call, Conversation, Result, Steps
from headwise.errors import HeadwiseError, Unavailable, from_rpc_error
from headwise.inputs import ImageLike, Images, one_by_one
from headwise.messages import Question
from headwise.repeats import wait_before_repeat, waits
from headwise.results import Classification, Explanation, ServedModel
from headwise.streaming import Progress, stream_request, stream_result
from headwise.targets import check_target
from headwise.v1 import service_pb2 as pb
from headwise.v1.bundle_pb2 import Bundle
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub

if TYPE_CHECKING:
    from headwise.v1.service_pb2_grpc import HeadwiseServiceAsyncStub  # stands in the .pyi alone

DEFAULT_TARGET = "localhost:50051"
TIMEOUT_SECONDS = 30.0
MAX_MESSAGE_BYTES = 64 * 2**20
POLL_SECONDS = 0.1
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 60, 10  # how soon a call notices that its server is gone


def _options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ]


def _access(tls: Tls | bool, token: str, allow_plaintext_token: bool) -> Access:
    return Access(Tls() if tls is True else tls or None, token, allow_plaintext_token)


@contextmanager
def _client_errors(target: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, target) from error


class Client:
    """A blocking client.

    Args:
        target: address and port of the server.
        tls: whom to trust, and who the client is; True for the roots that gRPC brings, False for plain text.
        token: that the server knows the client by.
        allow_plaintext_token: send it without TLS to another machine.
        timeout_seconds: of each call, its repeats included.
        retries: how often a call is repeated that the server had no room for, or that no server answered.
        max_message_bytes: of each message sent or received.

    Raises:
        OSError: a certificate or key cannot be read.
        ValueError: it is none, the token would be sent in plain text to another machine, or the target is no host:port.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: Tls | bool = False,
        token: str = "",
        allow_plaintext_token: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: int = 0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        access = _access(tls, token, allow_plaintext_token)
        self.target, self.timeout_seconds, self.retries = check_target(target), timeout_seconds, retries
        self._metadata = access.metadata(target)
        self._channel = access.channel(target, _options(max_message_bytes))
        self._stub = HeadwiseServiceStub(self._channel)
        self._conversation = Conversation()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, call: Call) -> Any:
        give_up = time.monotonic() + self.timeout_seconds
        pauses = waits(self.retries, give_up)
        while True:
            try:
                with _client_errors(self.target):
                    left = max(0.0, give_up - time.monotonic())
                    return getattr(self._stub, call.method)(call.request, timeout=left, metadata=self._metadata)
            except HeadwiseError as error:
                time.sleep(wait_before_repeat(error, pauses, give_up))

    def _drive(self, steps: Steps[Result]) -> Result:
        try:
            call = next(steps)
            while True:
                try:
                    reply = self._call(call)
                except HeadwiseError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(reply)
        except StopIteration as stop:
            result: Result = stop.value
            return result

    def classify(self, images: Images, *, model: str = "", version: str = "", top_k: int = 0) -> list[Classification]:
        """The labels of each image, in one call, or in several where one would be too large.

        Args:
            images: one or many; see `headwise.inputs`.
            model: may be empty where the server has one alone.
            version: empty for the newest.
            top_k: labels to name for each image; 0 leaves it to the server.

        Raises:
            HeadwiseError: a call failed.
            TypeError, ValueError, OSError: something is no image, or cannot be read; nothing was sent.
        """
        return self._drive(self._conversation.classify(images, model, version, top_k))

    def classify_stream(
        self, images: Iterable[ImageLike], *, model: str = "", version: str = "", top_k: int = 0
    ) -> Iterator[Classification]:
        """The labels of each image over one stream, in order, while later ones are on their way.

        Raises:
            HeadwiseError: the stream failed or ended early, the server was silent for longer than a call may take, or
                the image whose turn it is was refused.
            TypeError, ValueError, OSError: an image is none, or cannot be read; those before it were answered.
        """
        progress = Progress(self.timeout_seconds)

        def requests() -> Iterator[pb.ClassifyStreamRequest]:
            try:
                for number, image in enumerate(one_by_one(images)):
                    encoded = self._drive(self._conversation.image(image, model, version))
                    progress.count(sent=1)
                    yield stream_request(number, encoded, model, version, top_k)
            except Exception as error:  # gRPC would make another of it
                progress.failure = error

        replies = self._stub.ClassifyStream(requests(), metadata=self._metadata)
        with progress.watched(replies.cancel):
            try:
                for reply in replies:
                    progress.count(answered=1)
                    yield stream_result(reply)
            except grpc.RpcError as error:
                raise progress.failed(error, self.target) from error
        progress.check_complete()

    def explain(
        self,
        images: Images,
        *,
        labels: Sequence[str] = (),
        model: str = "",
        version: str = "",
        top_k: int = 0,
        maps: bool = False,
        causal: bool = False,
        silenced_heads: Sequence[tuple[int, int]] = (),
    ) -> list[Explanation]:
        """What each head contributed to the target labels of each image, in as many calls as `classify`.

        The first explanation that a model gives needs one more, for what its heads are called.

        Args:
            labels: the targets, each once; the first `top_k` of each image where empty.
            maps: also say which tokens each contribution comes from.
            causal: also remove each head in turn and see how far the logits fall; one more inference for each head.
            silenced_heads: encoder and head of each; also say the logits with all of them silent.

        Raises:
            HeadwiseError: a call failed.
            TypeError, ValueError, OSError: as `classify`; or the labels are one string, or the model has no such head.
        """
        asked = Question(labels, top_k, maps, causal, silenced_heads)
        return self._drive(self._conversation.explain(images, model, version, asked))

    def list_models(self) -> list[ServedModel]:
        """All models served.

        Raises:
            HeadwiseError: the call failed.
        """
        reply = self._call(Call("ListModels", pb.ListModelsRequest()))
        return [messages.served_model(model) for model in reply.models]

    def get_model(self, model: str = "", version: str = "") -> Bundle:
        """The manifest of a model.

        Raises:
            HeadwiseError: the call failed.
        """
        manifest: Bundle = self._call(Call("GetModel", pb.GetModelRequest(model=model, version=version))).manifest
        return manifest

    def wait_until_ready(self, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Return when the server serves at least one model.

        Raises:
            HeadwiseError: it does not within the timeout.
        """
        give_up = time.monotonic() + timeout_seconds
        while True:
            try:
                return self._drive(self._conversation.ready(self.target))
            except Unavailable:
                if time.monotonic() > give_up:
                    raise
            time.sleep(POLL_SECONDS)


class AsyncClient:
    """An awaiting client; see `Client` for its arguments, and for what the methods do and raise."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: Tls | bool = False,
        token: str = "",
        allow_plaintext_token: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: int = 0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        access = _access(tls, token, allow_plaintext_token)
        self.target, self.timeout_seconds, self.retries = check_target(target), timeout_seconds, retries
        self._metadata = access.metadata(target)
        self._channel = access.aio_channel(target, _options(max_message_bytes))
        self._stub: HeadwiseServiceAsyncStub = HeadwiseServiceStub(self._channel)
        self._conversation = Conversation()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def _call(self, call: Call) -> Any:
        give_up = time.monotonic() + self.timeout_seconds
        pauses = waits(self.retries, give_up)
        while True:
            try:
                with _client_errors(self.target):
                    left = max(0.0, give_up - time.monotonic())
                    return await getattr(self._stub, call.method)(call.request, timeout=left, metadata=self._metadata)
            except HeadwiseError as error:
                await asyncio.sleep(wait_before_repeat(error, pauses, give_up))

    async def _drive(self, steps: Steps[Result]) -> Result:
        try:
            call = next(steps)
            while True:
                try:
                    reply = await self._call(call)
                except HeadwiseError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(reply)
        except StopIteration as stop:
            result: Result = stop.value
            return result

    async def classify(
        self, images: Images, *, model: str = "", version: str = "", top_k: int = 0
    ) -> list[Classification]:
        """The labels of each image."""
        return await self._drive(self._conversation.classify(images, model, version, top_k))

    async def classify_stream(
        self, images: AsyncIterable[ImageLike], *, model: str = "", version: str = "", top_k: int = 0
    ) -> AsyncIterator[Classification]:
        """The labels of each image over one stream, in order, while later ones are on their way."""
        progress = Progress(self.timeout_seconds)

        async def requests() -> AsyncIterator[pb.ClassifyStreamRequest]:
            number = 0
            try:
                async for image in images:
                    encoded = await self._drive(self._conversation.image(image, model, version))
                    progress.count(sent=1)
                    yield stream_request(number, encoded, model, version, top_k)
                    number += 1
            except Exception as error:  # gRPC would make another of it
                progress.failure = error

        replies = self._stub.ClassifyStream(requests(), metadata=self._metadata)
        try:
            while (reply := await self._next(replies, progress)) is not None:
                progress.count(answered=1)
                yield stream_result(reply)
        except grpc.RpcError as error:
            raise progress.failed(error, self.target) from error
        finally:
            replies.cancel()
        progress.check_complete()

    async def _next(self, replies: Any, progress: Progress) -> pb.ClassifyStreamResponse | None:
        """The next reply of a stream; None at its end.

        Raises:
            DeadlineExceeded: the server was silent for too long.
        """
        reading = asyncio.ensure_future(replies.read())
        try:
            while not (await asyncio.wait({reading}, timeout=max(0.0, progress.left())))[0]:
                if progress.left() <= 0:
                    raise progress.overdue()
            reply = reading.result()
        finally:
            reading.cancel()
        return None if reply is grpc.aio.EOF else reply

    async def explain(
        self,
        images: Images,
        *,
        labels: Sequence[str] = (),
        model: str = "",
        version: str = "",
        top_k: int = 0,
        maps: bool = False,
        causal: bool = False,
        silenced_heads: Sequence[tuple[int, int]] = (),
    ) -> list[Explanation]:
        """What each head contributed to the target labels of each image."""
        asked = Question(labels, top_k, maps, causal, silenced_heads)
        return await self._drive(self._conversation.explain(images, model, version, asked))

    async def list_models(self) -> list[ServedModel]:
        """All models served."""
        reply = await self._call(Call("ListModels", pb.ListModelsRequest()))
        return [messages.served_model(model) for model in reply.models]

    async def get_model(self, model: str = "", version: str = "") -> Bundle:
        """The manifest of a model."""
        call = Call("GetModel", pb.GetModelRequest(model=model, version=version))
        manifest: Bundle = (await self._call(call)).manifest
        return manifest

    async def wait_until_ready(self, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Return when the server serves at least one model."""
        give_up = time.monotonic() + timeout_seconds
        while True:
            try:
                return await self._drive(self._conversation.ready(self.target))
            except Unavailable:
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(POLL_SECONDS)
