"""The stream of classifications: what both clients do around gRPC's.

An image that cannot be read ends what is sent, and is an error once those before it are answered. A stream that ends
before all images are answered is an error. And so is a server that is silent for longer than a call may take while
images wait for an answer; however long the stream lasts, and however slowly the caller gives images or takes results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Thread

import grpc

from headwise import messages
from headwise.errors import DeadlineExceeded, Unavailable, from_rpc_error, make_error, status_code
from headwise.results import Classification
from headwise.v1 import service_pb2 as pb


def stream_request(number: int, image: pb.Image, model: str, version: str, top_k: int) -> pb.ClassifyStreamRequest:
    """One image of a stream."""
    request = messages.classify_request([image], model, version, top_k)
    return pb.ClassifyStreamRequest(request=request, request_id=str(number))


def stream_result(reply: pb.ClassifyStreamResponse) -> Classification:
    """The answer to one image.

    Raises:
        HeadwiseError: it was refused; the message says which one.
    """
    if reply.WhichOneof("result") == "error":
        raise make_error(status_code(reply.error.code), f"image {reply.request_id}: {reply.error.message}")
    return messages.classifications(reply.response)[0]


@dataclass
class Progress:
    """How far a stream is."""

    seconds: float  # that the server may be silent
    sent: int = 0
    answered: int = 0
    failure: Exception | None = None  # of the caller's images
    silent: bool = False  # for too long
    changed: Condition = field(default_factory=Condition)
    _since: float = field(default_factory=time.monotonic)
    _ended: bool = False

    def count(self, *, sent: int = 0, answered: int = 0) -> None:
        """An image was sent, or answered."""
        with self.changed:
            if answered or self.sent == self.answered:  # nothing waited before
                self._since = time.monotonic()
            self.sent, self.answered = self.sent + sent, self.answered + answered

    @contextmanager
    def watched(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Cancel the stream when the server is silent for too long."""
        watcher = Thread(target=self._watch, args=(cancel,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            with self.changed:
                self._ended = True
                self.changed.notify_all()
            cancel()
            watcher.join()

    def left(self) -> float:
        """Seconds that the server may still be silent; all of them where no image waits for an answer."""
        return self._since + self.seconds - time.monotonic() if self.sent > self.answered else self.seconds

    def _watch(self, cancel: Callable[[], object]) -> None:
        with self.changed:
            while not self._ended and (left := self.left()) > 0:
                self.changed.wait(left)
            self.silent = not self._ended
        if self.silent:
            cancel()

    def failed(self, error: grpc.RpcError, target: str) -> Exception:
        """What the caller is told of a stream that gRPC ended."""
        return self.overdue() if self.silent else self.failure or from_rpc_error(error, target)

    def overdue(self) -> DeadlineExceeded:
        """What the caller is told of a server that is silent."""
        message = f"expected an answer to image {self.answered} within {self.seconds:g} s, found none."
        return DeadlineExceeded(message, grpc.StatusCode.DEADLINE_EXCEEDED)

    def check_complete(self) -> None:
        """That every image was answered, once the stream has ended.

        Raises:
            Unavailable: the server ended it early.
            Exception: what reading the caller's images raised.
        """
        if self.failure is not None:
            raise self.failure
        if self.answered < self.sent:
            raise Unavailable(
                f"the server ended the stream after {self.answered} of {self.sent} images. Send the others again.",
                grpc.StatusCode.UNAVAILABLE,
            )
