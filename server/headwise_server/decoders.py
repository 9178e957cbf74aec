"""Decode images in threads, within a bound of memory, one image after another of each client in turn.

What an image takes while it is decoded is known from its header. As many run at a time as there are threads and as the
bound has room for; the others wait, and leave when nobody wants them any more. Tensors need no decoding and do not
come here, so they never wait behind photos.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from headwise_server.errors import DeadlineUnmet, Overloaded
from headwise_server.fair import FairQueue
from headwise_server.telemetry import Telemetry

SMOOTHING = 0.1  # weight of the latest image in the moving mean of seconds for each image
Result = TypeVar("Result")


@dataclass(eq=False)
class _Job(Generic[Result]):
    client: str
    work: Callable[[], Result]
    memory_bytes: int
    deadline: float | None
    future: asyncio.Future[Result]


class Decoders:
    """Runs decoding jobs. Belongs to one event loop.

    Args:
        executor: at least `threads` threads.
        memory_bytes: that all jobs which run may take together; a job alone may take no more.
        max_queue: images that may wait.
        telemetry: where the time of each image is measured.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        threads: int,
        memory_bytes: int,
        max_queue: int,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._executor, self._free_threads, self._threads = executor, threads, threads
        self.memory_bytes, self._free_bytes = memory_bytes, memory_bytes
        self._waiting: FairQueue[_Job[Any]] = FairQueue(max_queue)
        self._next: _Job[Any] | None = None  # the one that waits for memory
        self._seconds = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting_images(self) -> int:
        """Images that wait for a thread; one that waits for memory is not counted."""
        return int(self._waiting.weight)

    def check_room(self, client: str, images: int) -> None:
        """Whether so many images of a client may come now.

        Raises:
            Overloaded: there is no room for them.
        """
        if not self._waiting.has_room(client, images):
            seconds = self.waiting_images * self._seconds / self._threads
            raise Overloaded(f"{self.waiting_images} images wait to be decoded", seconds)

    async def run(
        self, client: str, jobs: Sequence[tuple[Callable[[], Result], int]], deadline: float | None = None
    ) -> list[Result]:
        """What each job gives, from a thread. All enter the queue in one step, or none does.

        Args:
            jobs: of a client, each with the memory that it takes, `self.memory_bytes` at most.
            deadline: when they are of no more use, on `time.monotonic`'s clock.

        Raises:
            Overloaded: there is no room for them.
            DeadlineUnmet: the deadline passed before the turn of one came.
            Exception: whatever the first that fails raises; those that have not begun are not run then.
        """
        self.check_room(client, len(jobs))
        futures = [self._enqueue(client, work, memory_bytes, deadline) for work, memory_bytes in jobs]
        self._start_jobs()
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

    def _enqueue(
        self, client: str, work: Callable[[], Result], memory_bytes: int, deadline: float | None
    ) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = _Job(client, work, memory_bytes, deadline, future)
        self._waiting.push(client, job, 1)
        future.add_done_callback(lambda _: self._waiting.discard(client, job))
        return future

    def _start_jobs(self) -> None:
        while self._free_threads:
            job = self._next = self._next or self._waiting.take(lambda _: True)
            if job is None:
                return
            if job.deadline is not None and time.monotonic() >= job.deadline and not job.future.done():
                late = DeadlineUnmet("the deadline passed while an image waited to be decoded.")
                job.future.set_exception(late)
            if not job.future.done() and job.memory_bytes > self._free_bytes:
                return  # smaller ones do not overtake it, or it might never run
            self._next = None
            if job.future.done():
                continue
            self._free_threads -= 1
            self._free_bytes -= job.memory_bytes
            task = asyncio.get_running_loop().create_task(self._run_job(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_job(self, job: "_Job[Result]") -> None:
        began = time.monotonic()
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._executor, job.work)
        except Exception as error:  # the caller's
            if not job.future.done():
                job.future.set_exception(error)
        else:
            if not job.future.done():
                job.future.set_result(result)
        finally:
            seconds = time.monotonic() - began
            self._telemetry.decode_seconds.observe(seconds)
            self._seconds += SMOOTHING * (seconds - self._seconds)
            self._free_threads += 1
            self._free_bytes += job.memory_bytes
            self._start_jobs()
