"""Form batches from what waits when an engine stream is free.

No timer: a lone request runs at once; under load requests pile up while the streams are busy, and the next free stream
takes as many as fit. One queue for all models, in which clients take turns; a batch holds requests for one session
only, with other inputs of one shape where it takes any, and a request of more images than a batch holds is run in
pieces.

Promises, each with a test:
- the queue is bounded in images; a request that does not fit is refused at once, with the time after which to retry;
- a request whose deadline cannot be met by what is measured is refused on arrival, and as a whole; but never where
  nothing runs or waits, so that there is always a newer measurement;
- no client waits for the backlog of another;
- cancelled and expired requests leave before a batch is formed, and once more before the engine begins with it, so no
  inference is wasted on them;
- a member that is cancelled while its batch runs takes nothing from the others, at any position;
- an engine error reaches every member of its batch, and nobody else.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from headwise.graphs import Arrays
from numpy.typing import NDArray

from headwise_server.engines import Outputs
from headwise_server.errors import SHUTTING_DOWN, DeadlineUnmet, Internal, NotReady, Overloaded
from headwise_server.fair import FairQueue
from headwise_server.telemetry import Telemetry
from headwise_server.timing import TimedSession
from headwise_server.tracing import CURRENT, Attributes, Span

NOTHING_ELSE: Arrays = {}


@dataclass(frozen=True)
class Answer:
    """What batches gave for one request, and how long that took."""

    outputs: Outputs  # rows of this request only
    queue_seconds: float  # the longest wait of a piece
    inference_seconds: float  # the longest run of a whole batch with a piece


@dataclass(eq=False)
class _Piece:
    client: str
    session: TimedSession
    images_NYXC: NDArray[np.uint8]
    others: Arrays
    row_shapes: list[tuple[int, ...]]  # of the others, by image
    future: asyncio.Future[Answer]
    deadline: float  # on time.monotonic's clock
    seconds: float  # expected
    arrived: float = field(default_factory=time.monotonic)
    span: Span = field(default_factory=CURRENT.get)

    def fits(self, other: "_Piece") -> bool:
        """Whether both may be run in one batch."""
        return self.session is other.session and self.row_shapes == other.row_shapes

    def is_late(self, now: float) -> bool:
        return now >= self.deadline


@dataclass(frozen=True)
class _Ran:
    """A batch that has been run."""

    members: list[_Piece]  # that it was run for, in order
    outputs: Outputs
    started: float  # on time.monotonic's clock
    wasted: int  # images of members that were over when the engine began


def _late() -> DeadlineUnmet:
    return DeadlineUnmet("the deadline passed while the request waited for the engine.")


def _images_of(pieces: Iterable[_Piece]) -> int:
    return sum(len(piece.images_NYXC) for piece in pieces)


def _concatenated(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _joined(answers: Sequence[Answer]) -> Answer:
    if len(answers) == 1:
        return answers[0]
    outputs = {name: np.concatenate([answer.outputs[name] for answer in answers]) for name in answers[0].outputs}
    queue_seconds = max(answer.queue_seconds for answer in answers)
    return Answer(outputs, queue_seconds, max(answer.inference_seconds for answer in answers))


class Batcher:
    """Runs requests on sessions, at most `streams` batches at a time. Belongs to one event loop.

    Args:
        executor: threads that run the engine; at least `streams` of them.
        max_batch: images in a batch.
        max_queue: images that may wait, and that a request may have.
        telemetry: where batches are measured.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        streams: int,
        max_batch: int,
        max_queue: int,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._executor, self._free_streams = executor, streams
        self._streams, self.max_batch, self.max_queue = streams, max_batch, max_queue
        self._waiting: FairQueue[_Piece] = FairQueue(max_queue)
        self._waiting_seconds = 0.0  # of engine time, for all that waits
        self._next_deadline = math.inf  # no piece that waits has an earlier one
        self._running: dict[asyncio.Task[None], float] = {}  # and since when
        self._left: list[asyncio.Future[None]] = []  # whoever waits for room
        self._closed = False

    @property
    def waiting_images(self) -> int:
        """Images in the queue, those of cancelled requests not counted."""
        return int(self._waiting.weight)

    @property
    def waiting_seconds(self) -> float:
        """How long what waits is expected to keep the engine busy."""
        return self._waiting_seconds / self._streams

    @property
    def longest_running_seconds(self) -> float:
        """For how long the batch runs that has run the longest; 0 where none does."""
        return time.monotonic() - min(self._running.values()) if self._running else 0.0

    def expected_seconds(self, session: TimedSession, images: int) -> float:
        """How long a request of that size would take if it came now."""
        waves = -(-images // (self.max_batch * self._streams))  # of batches, one after another
        return self.waiting_seconds + waves * session.expected_seconds(min(images, self.max_batch))

    def check_room(self, client: str, images: int) -> None:
        """Refuse a request that would be refused anyway, before images are made for it.

        Raises:
            Overloaded: the queue has no room for it.
        """
        if not self._waiting.has_room(client, images):
            raise Overloaded(f"{self.waiting_images} images wait", self.waiting_seconds)

    async def run(
        self,
        session: TimedSession,
        images_NYXC: NDArray[np.uint8],
        deadline: float | None = None,
        *,
        client: str = "",
        waits_for_room: bool = False,
        others: Arrays = NOTHING_ELSE,
    ) -> Answer:
        """Every output of the session for these images (N, Y, X, C).

        Args:
            others: what else the session takes, by name, N rows each.
            deadline: when the answer is of no more use, on `time.monotonic`'s clock.
            client: whose request it is; clients take turns.
            waits_for_room: whether the request waits for room in the queue, rather than being refused.

        Raises:
            Overloaded: the queue has no room.
            DeadlineUnmet: the deadline has passed, or would before the answer is there.
            NotReady: the batcher is closed.
            Internal: the engine failed.
        """
        if self._closed:
            raise NotReady(SHUTTING_DOWN)
        if not waits_for_room:
            self.check_room(client, len(images_NYXC))
        while not self._waiting.has_room(client, len(images_NYXC)):
            left = asyncio.get_running_loop().create_future()
            self._left.append(left)
            await left
        self._check_deadline(session, len(images_NYXC), deadline)
        pieces = self._enqueue(client, session, images_NYXC, others, math.inf if deadline is None else deadline)
        self._start_batches()
        try:
            return _joined([await piece.future for piece in pieces])
        finally:
            for piece in pieces:
                if not piece.future.cancel() and not piece.future.cancelled():
                    piece.future.exception()  # one of them is raised; asyncio would log the others

    def _check_deadline(self, session: TimedSession, images: int, deadline: float | None) -> None:
        if deadline is None:
            return
        left = deadline - time.monotonic()
        need = self.expected_seconds(session, images) if self._running or self._waiting.weight else 0.0
        if left <= need:
            raise DeadlineUnmet(f"expected at least {need:.3f} s until the deadline, found {max(left, 0):.3f} s.")

    def _enqueue(
        self, client: str, session: TimedSession, images_NYXC: NDArray[np.uint8], others: Arrays, deadline: float
    ) -> list[_Piece]:
        self._next_deadline = min(self._next_deadline, deadline)
        row_shapes = [value.shape[1:] for value in others.values()]
        seconds_per_image = session.expected_seconds(self.max_batch) / self.max_batch
        pieces = []
        for first in range(0, len(images_NYXC), self.max_batch):
            rows = slice(first, first + self.max_batch)
            part_NYXC, part = images_NYXC[rows], {name: value[rows] for name, value in others.items()}
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            piece = _Piece(
                client, session, part_NYXC, part, row_shapes, future, deadline, len(part_NYXC) * seconds_per_image
            )
            future.add_done_callback(lambda done, piece=piece: self._forget(piece))  # type: ignore[misc]  # untyped
            self._waiting.push(client, piece, len(part_NYXC))
            self._waiting_seconds += piece.seconds
            pieces.append(piece)
        return pieces

    def _has_left(self, piece: _Piece) -> None:
        self._waiting_seconds = max(0.0, self._waiting_seconds - piece.seconds) if self._waiting.weight else 0.0
        left, self._left = self._left, []
        for future in left:
            if not future.done():
                future.set_result(None)

    def _forget(self, piece: _Piece) -> None:
        """Take a piece that is done while it still waits out of the queue."""
        if self._waiting.discard(piece.client, piece):
            self._has_left(piece)

    def _end_late(self) -> None:
        """End the pieces whose deadline has passed; they leave the queue."""
        if (now := time.monotonic()) < self._next_deadline:
            return
        for piece in list(self._waiting):
            if piece.is_late(now):
                if not piece.future.done():
                    piece.future.set_exception(_late())
                self._forget(piece)
        self._next_deadline = min((piece.deadline for piece in self._waiting), default=math.inf)

    def _take_batch(self) -> list[_Piece]:
        """The wanted piece whose turn it is, and others for its session that fit; they leave the queue."""
        self._end_late()
        batch: list[_Piece] = []
        room = self.max_batch

        def is_suitable(piece: _Piece) -> bool:
            if piece.future.done():  # in this moment; it is forgotten in the next
                return False
            return not batch or (len(piece.images_NYXC) <= room and piece.fits(batch[0]))

        while room > 0 and (piece := self._waiting.take(is_suitable)):
            self._has_left(piece)
            batch.append(piece)
            room -= len(piece.images_NYXC)
        return batch

    def _start_batches(self) -> None:
        while self._free_streams and (batch := self._take_batch()):
            self._free_streams -= 1
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._running[task] = time.monotonic()
            task.add_done_callback(self._running.pop)

    async def _run_batch(self, batch: list[_Piece]) -> None:
        try:
            ran = await asyncio.get_running_loop().run_in_executor(self._executor, self._run_wanted, batch)
        except Exception as error:  # whatever the runtime raises is the answer of this batch
            failure = Internal(f"the engine failed: {error}")
            self._telemetry.failed_batches.labels(batch[0].session.model, batch[0].session.graph).inc()
            for piece in batch:
                if not piece.future.done():
                    piece.future.set_exception(failure)
        else:
            self._deliver(batch, ran)
        finally:
            self._free_streams += 1
            self._start_batches()

    def _run_wanted(self, batch: list[_Piece]) -> _Ran:
        """Run what is still wanted of a batch; in a thread of the engine, which may have been waited for."""
        started = time.monotonic()
        members = [piece for piece in batch if not piece.future.done() and not piece.is_late(started)]
        if not members:
            return _Ran([], {}, started, 0)
        session, images_NYXC = members[0].session, _concatenated([piece.images_NYXC for piece in members])
        others = {name: _concatenated([piece.others[name] for piece in members]) for name in members[0].others}
        self._telemetry.batch_images.observe(len(images_NYXC))
        attributes: Attributes = {"model": session.model, "graph": session.graph, "images": len(images_NYXC)}
        wasted = _images_of(piece for piece in members if piece.future.done())
        self._telemetry.wasted_images.inc(wasted)
        with self._telemetry.tracing.batch(attributes, [piece.span for piece in members]):
            outputs = session.run(images_NYXC, **others)
        self._telemetry.inference_seconds.labels(session.model, session.graph).observe(time.monotonic() - started)
        return _Ran(members, outputs, started, wasted)

    def _deliver(self, batch: list[_Piece], ran: _Ran) -> None:
        seconds = time.monotonic() - ran.started
        gone = _images_of(piece for piece in ran.members if piece.future.done())
        self._telemetry.abandoned_images.inc(gone - ran.wasted)
        first = 0
        for piece in ran.members:
            rows = slice(first, first + len(piece.images_NYXC))
            first = rows.stop
            if not piece.future.done():
                own = {name: value[rows] for name, value in ran.outputs.items()}
                piece.future.set_result(Answer(own, ran.started - piece.arrived, seconds))
        for piece in batch:
            if not piece.future.done():
                piece.future.set_exception(_late())

    async def close(self) -> None:
        """Refuse what comes, answer what waits, and return when nothing runs."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)
