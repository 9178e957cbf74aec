"""Clients of a Headwise server: `Client` blocks, `AsyncClient` awaits; both have the same methods and results.

    with Client("localhost:50051") as client:
        [classification] = client.classify(["digit.png"])
        print(classification.top[0].label)

Every call but `classify_stream` has a timeout. A failed call raises a `headwise.errors.HeadwiseError`, never a bare
grpc error.
"""

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from headwise import messages
from headwise.access import Access, Tls
from headwise.errors import Unavailable, from_rpc_error, make_error, status_code
from headwise.messages import Classification, Explanation, ImageLike, Names, ServedModel
from headwise.v1 import service_pb2 as pb
from headwise.v1.bundle_pb2 import Bundle
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub

if TYPE_CHECKING:
    from headwise.v1.service_pb2_grpc import HeadwiseServiceAsyncStub  # stands in the .pyi alone

DEFAULT_TARGET = "localhost:50051"
TIMEOUT_SECONDS = 30.0
MAX_MESSAGE_BYTES = 64 * 2**20
POLL_SECONDS = 0.1
REMEMBERED_MODELS = 16  # whose names are kept; a client that explains with more of them asks again


def _options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
    ]


def _access(tls: Tls | bool, token: str, allow_plaintext_token: bool) -> Access:
    return Access(Tls() if tls is True else tls or None, token, allow_plaintext_token)


@contextmanager
def _client_errors(target: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, target) from error


def _stream_requests(
    images: Iterable[ImageLike], model: str, version: str, top_k: int
) -> Iterator[pb.ClassifyStreamRequest]:
    for number, image in enumerate(images):
        request = messages.classify_request([image], model, version, top_k)
        yield pb.ClassifyStreamRequest(request=request, request_id=str(number))


def _stream_result(reply: pb.ClassifyStreamResponse) -> Classification:
    if reply.WhichOneof("result") == "error":
        raise make_error(status_code(reply.error.code), f"image {reply.request_id}: {reply.error.message}")
    return messages.classifications(reply.response)[0]


class _RememberedNames:
    """The names of the models that explained last, by the sha256 of their manifests."""

    def __init__(self) -> None:
        self._names: dict[str, Names] = {}

    def get(self, model: pb.ServedModel) -> Names | None:
        """The names of that model, where they are known."""
        return self._names.get(model.sha256)

    def add(self, explained: pb.ServedModel, response: pb.GetModelResponse) -> Names:
        """Remember the names of the model that explained.

        Raises:
            Unavailable: the server has another one by now.
        """
        if response.model.sha256 != explained.sha256:
            raise make_error(
                grpc.StatusCode.UNAVAILABLE,
                f"model {explained.name} version {explained.version} was replaced during the call. Send it again.",
            )
        for oldest in list(self._names)[: 1 - REMEMBERED_MODELS]:
            self._names.pop(oldest, None)
        names = self._names[explained.sha256] = messages.names_of(response)
        return names


def _get_model_request(model: pb.ServedModel) -> pb.GetModelRequest:
    return pb.GetModelRequest(model=model.name, version=model.version)


class Client:
    """A blocking client.

    Args:
        target: address and port of the server.
        tls: whom to trust, and who the client is; True for the roots that gRPC brings, False for plain text.
        token: that the server knows the client by.
        allow_plaintext_token: send it without TLS to another machine.
        timeout_seconds: of each call.
        max_message_bytes: of each message sent or received.

    Raises:
        OSError: a certificate or key cannot be read.
        ValueError: it is none, or the token would be sent in plain text to another machine.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: Tls | bool = False,
        token: str = "",
        allow_plaintext_token: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        access = _access(tls, token, allow_plaintext_token)
        self._metadata = access.metadata(target)
        self.target, self.timeout_seconds = target, timeout_seconds
        self._channel = access.channel(target, _options(max_message_bytes))
        self._stub = HeadwiseServiceStub(self._channel)
        self._names = _RememberedNames()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def classify(
        self, images: Iterable[ImageLike], *, model: str = "", version: str = "", top_k: int = 0
    ) -> list[Classification]:
        """The labels of each image, in one call.

        Args:
            model: may be empty where the server has one alone.
            version: empty for the newest.
            top_k: labels to name for each image; 0 leaves it to the server.

        Raises:
            HeadwiseError: the call failed.
        """
        request = messages.classify_request(images, model, version, top_k)
        with _client_errors(self.target):
            return messages.classifications(
                self._stub.Classify(request, timeout=self.timeout_seconds, metadata=self._metadata)
            )

    def classify_stream(
        self, images: Iterable[ImageLike], *, model: str = "", version: str = "", top_k: int = 0
    ) -> Iterator[Classification]:
        """The labels of each image over one stream, in order, while later ones are on their way.

        Raises:
            HeadwiseError: the stream failed, or the image whose turn it is was refused.
        """
        with _client_errors(self.target):
            for reply in self._stub.ClassifyStream(
                _stream_requests(images, model, version, top_k), metadata=self._metadata
            ):
                yield _stream_result(reply)

    def explain(
        self,
        images: Iterable[ImageLike],
        *,
        labels: Sequence[str] = (),
        model: str = "",
        version: str = "",
        top_k: int = 0,
    ) -> list[Explanation]:
        """What each head contributed to the target labels of each image, in one call.

        The first explanation that a model gives needs a second call, for what its heads are called.

        Args:
            labels: the targets, each once; the first `top_k` of each image where empty.

        Raises:
            HeadwiseError: the call failed.
        """
        request = messages.explain_request(images, model, version, labels, top_k)
        with _client_errors(self.target):
            reply = self._stub.Explain(request, timeout=self.timeout_seconds, metadata=self._metadata)
            if (names := self._names.get(reply.model)) is None:
                try:
                    described = self._stub.GetModel(
                        _get_model_request(reply.model), timeout=self.timeout_seconds, metadata=self._metadata
                    )
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.NOT_FOUND:
                        raise
                    # The version that answered has been retired since. What is served now explains as well.
                    reply = self._stub.Explain(request, timeout=self.timeout_seconds, metadata=self._metadata)
                    described = self._stub.GetModel(
                        _get_model_request(reply.model), timeout=self.timeout_seconds, metadata=self._metadata
                    )
                names = self._names.add(reply.model, described)
        return messages.explanations(reply, names)

    def list_models(self) -> list[ServedModel]:
        """All models served.

        Raises:
            HeadwiseError: the call failed.
        """
        with _client_errors(self.target):
            reply = self._stub.ListModels(pb.ListModelsRequest(), timeout=self.timeout_seconds, metadata=self._metadata)
        return [messages.served_model(model) for model in reply.models]

    def get_model(self, model: str = "", version: str = "") -> Bundle:
        """The manifest of a model.

        Raises:
            HeadwiseError: the call failed.
        """
        request = pb.GetModelRequest(model=model, version=version)
        with _client_errors(self.target):
            return self._stub.GetModel(request, timeout=self.timeout_seconds, metadata=self._metadata).manifest

    def wait_until_ready(self, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Return when the server serves at least one model.

        Raises:
            HeadwiseError: it does not within the timeout.
        """
        give_up = time.monotonic() + timeout_seconds
        while True:
            try:
                if self.list_models():
                    return
                failure = make_error(grpc.StatusCode.UNAVAILABLE, f"{self.target} still loads its models.")
            except Unavailable as error:
                failure = error
            if time.monotonic() > give_up:
                raise failure
            time.sleep(POLL_SECONDS)


class AsyncClient:
    """An awaiting client; see `Client` for what the methods do and raise."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: Tls | bool = False,
        token: str = "",
        allow_plaintext_token: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        access = _access(tls, token, allow_plaintext_token)
        self._metadata = access.metadata(target)
        self.target, self.timeout_seconds = target, timeout_seconds
        self._channel = access.aio_channel(target, _options(max_message_bytes))
        self._stub: HeadwiseServiceAsyncStub = HeadwiseServiceStub(self._channel)
        self._names = _RememberedNames()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def classify(
        self, images: Iterable[ImageLike], *, model: str = "", version: str = "", top_k: int = 0
    ) -> list[Classification]:
        """The labels of each image, in one call."""
        request = messages.classify_request(images, model, version, top_k)
        with _client_errors(self.target):
            return messages.classifications(
                await self._stub.Classify(request, timeout=self.timeout_seconds, metadata=self._metadata)
            )

    async def classify_stream(
        self, images: AsyncIterable[ImageLike], *, model: str = "", version: str = "", top_k: int = 0
    ) -> AsyncIterator[Classification]:
        """The labels of each image over one stream, in order, while later ones are on their way."""

        async def requests() -> AsyncIterator[pb.ClassifyStreamRequest]:
            number = 0
            async for image in images:
                request = messages.classify_request([image], model, version, top_k)
                yield pb.ClassifyStreamRequest(request=request, request_id=str(number))
                number += 1

        with _client_errors(self.target):
            async for reply in self._stub.ClassifyStream(requests(), metadata=self._metadata):
                yield _stream_result(reply)

    async def explain(
        self,
        images: Iterable[ImageLike],
        *,
        labels: Sequence[str] = (),
        model: str = "",
        version: str = "",
        top_k: int = 0,
    ) -> list[Explanation]:
        """What each head contributed to the target labels of each image, in one call."""
        request = messages.explain_request(images, model, version, labels, top_k)
        with _client_errors(self.target):
            reply = await self._stub.Explain(request, timeout=self.timeout_seconds, metadata=self._metadata)
            if (names := self._names.get(reply.model)) is None:
                try:
                    described = await self._stub.GetModel(
                        _get_model_request(reply.model), timeout=self.timeout_seconds, metadata=self._metadata
                    )
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.NOT_FOUND:
                        raise
                    # The version that answered has been retired since. What is served now explains as well.
                    reply = await self._stub.Explain(request, timeout=self.timeout_seconds, metadata=self._metadata)
                    described = await self._stub.GetModel(
                        _get_model_request(reply.model), timeout=self.timeout_seconds, metadata=self._metadata
                    )
                names = self._names.add(reply.model, described)
        return messages.explanations(reply, names)

    async def list_models(self) -> list[ServedModel]:
        """All models served."""
        with _client_errors(self.target):
            reply = await self._stub.ListModels(
                pb.ListModelsRequest(), timeout=self.timeout_seconds, metadata=self._metadata
            )
        return [messages.served_model(model) for model in reply.models]

    async def get_model(self, model: str = "", version: str = "") -> Bundle:
        """The manifest of a model."""
        request = pb.GetModelRequest(model=model, version=version)
        with _client_errors(self.target):
            return (await self._stub.GetModel(request, timeout=self.timeout_seconds, metadata=self._metadata)).manifest
