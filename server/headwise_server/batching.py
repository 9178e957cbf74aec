"""Form batches from what waits when an engine stream is free.

No timer: a lone request runs at once; under load requests pile up while the streams are busy, and the next free stream
takes as many as fit. One queue for all models, first come first served; a batch holds requests for one session only.

Promises, each with a test:
- the queue is bounded in images; a request that does not fit is refused at once, with the time after which to retry;
- a request whose deadline cannot be met by what is measured is refused on arrival;
- cancelled and expired requests leave before a batch is formed, so no inference is wasted on them;
- a member that is cancelled while its batch runs takes nothing from the others, at any position;
- an engine error reaches every member of its batch, and nobody else.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import asyncio
import time
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headwise_server.engines import Outputs, Session
from headwise_server.errors import SHUTTING_DOWN, DeadlineUnmet, Internal, NotReady, Overloaded

SMOOTHING = 0.2  # weight of the newest batch in the moving mean of seconds for each image
FIRST_GUESS_SECONDS = 0.01


@dataclass(frozen=True)
class Answer:
    """What a batch gave for one request, and how long that took."""

    outputs: Outputs  # rows of this request only
    queue_seconds: float
    inference_seconds: float  # of the whole batch


@dataclass(eq=False)
class _Waiting:
    session: Session
    images_NYXC: NDArray[np.uint8]
    future: asyncio.Future[Answer]
    deadline: float | None  # on time.monotonic's clock
    arrived: float = field(default_factory=time.monotonic)

    def is_wanted(self, now: float) -> bool:
        if self.future.done():
            return False
        if self.deadline is not None and now >= self.deadline:
            self.future.set_exception(DeadlineUnmet("the deadline passed while the request waited for the engine."))
            return False
        return True


class Batcher:
    """Runs requests on sessions, at most `streams` batches at a time. Belongs to one event loop.

    Args:
        executor: threads that run the engine; at least `streams` of them.
        max_batch: images in a batch, unless one request alone has more.
        max_queue: images that may wait.
    """

    def __init__(self, executor: Executor, *, streams: int, max_batch: int, max_queue: int) -> None:
        self._executor, self._free_streams = executor, streams
        self._streams, self.max_batch, self.max_queue = streams, max_batch, max_queue
        self._waiting: deque[_Waiting] = deque()
        self._waiting_images = 0
        self._running: set[asyncio.Task[None]] = set()
        self._seconds_per_image = FIRST_GUESS_SECONDS
        self._closed = False

    @property
    def waiting_images(self) -> int:
        """Images in the queue, those of cancelled requests not counted."""
        return self._waiting_images

    def expected_seconds(self, images: int) -> float:
        """How long a request of that size would take if it came now, from measured batches."""
        return (self._waiting_images / self._streams + images) * self._seconds_per_image

    async def run(self, session: Session, images_NYXC: NDArray[np.uint8], deadline: float | None = None) -> Answer:
        """Every output of the session for these images (N, Y, X, C).

        Args:
            deadline: when the answer is of no more use, on `time.monotonic`'s clock.

        Raises:
            Overloaded: the queue has no room.
            DeadlineUnmet: the deadline has passed, or would before the answer is there.
            NotReady: the batcher is closed.
            Internal: the engine failed.
        """
        images = len(images_NYXC)
        self._admit(images, deadline)
        waiting = _Waiting(session, images_NYXC, asyncio.get_running_loop().create_future(), deadline)
        waiting.future.add_done_callback(lambda future: self._forget(waiting))
        self._waiting.append(waiting)
        self._waiting_images += images
        self._start_batches()
        return await waiting.future

    def _admit(self, images: int, deadline: float | None) -> None:
        if self._closed:
            raise NotReady(SHUTTING_DOWN)
        if self._waiting_images and self._waiting_images + images > self.max_queue:
            raise Overloaded(self._waiting_images, self._waiting_images * self._seconds_per_image / self._streams)
        if deadline is not None and (left := deadline - time.monotonic()) < (need := self.expected_seconds(images)):
            raise DeadlineUnmet(f"expected at least {need:.3f} s until the deadline, found {max(left, 0):.3f} s.")

    def _forget(self, waiting: _Waiting) -> None:
        """Take a request that is done while it still waits out of the queue."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._waiting_images -= len(waiting.images_NYXC)

    def _take_batch(self) -> list[_Waiting]:
        """The oldest wanted request, and all others for its session that fit, in order; they leave the queue."""
        now = time.monotonic()
        for waiting in list(self._waiting):
            if not waiting.is_wanted(now):
                self._forget(waiting)
        batch: list[_Waiting] = []
        room = self.max_batch
        for waiting in list(self._waiting):
            images = len(waiting.images_NYXC)
            if batch and (waiting.session is not batch[0].session or images > room):
                continue
            batch.append(waiting)
            self._forget(waiting)
            room -= images
        return batch

    def _start_batches(self) -> None:
        while self._free_streams and (batch := self._take_batch()):
            self._free_streams -= 1
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run_batch(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        try:
            images_NYXC = np.concatenate([waiting.images_NYXC for waiting in batch])
            loop = asyncio.get_running_loop()
            outputs = await loop.run_in_executor(self._executor, batch[0].session.run, images_NYXC)
        except Exception as error:  # whatever the runtime raises is the answer of this batch
            failure = Internal(f"the engine failed: {error}")
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(failure)
        else:
            self._deliver(batch, outputs, started)
        finally:
            self._free_streams += 1
            self._start_batches()

    def _deliver(self, batch: list[_Waiting], outputs: Outputs, started: float) -> None:
        seconds = time.monotonic() - started
        images = sum(len(waiting.images_NYXC) for waiting in batch)
        self._seconds_per_image += SMOOTHING * (seconds / images - self._seconds_per_image)
        first = 0
        for waiting in batch:
            rows = slice(first, first + len(waiting.images_NYXC))
            first = rows.stop
            if not waiting.future.done():
                own = {name: value[rows] for name, value in outputs.items()}
                waiting.future.set_result(Answer(own, started - waiting.arrived, seconds))

    async def close(self) -> None:
        """Refuse what comes, answer what waits, and return when nothing runs."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)
