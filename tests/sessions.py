"""Sessions that echo their input and run when a test lets them."""

import asyncio
import threading
import time

import numpy as np
import support
from headwise_server.batching import Answer, Batcher
from headwise_server.engines import Outputs, Precision
from headwise_server.timing import TimedSession

SECONDS = support.LONG_SECONDS


class Gated:
    """A session whose output is its input, and that runs only when it is let through."""

    precision: Precision = "f32"

    def __init__(self, *, open_gate: bool, failure: Exception | None) -> None:
        self.gate, self.failure, self.pause = threading.Event(), failure, 0.0
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        if open_gate:
            self.gate.set()

    def run(self, images_NYXC: np.ndarray, **others: np.ndarray) -> Outputs:
        """The first pixel of each image."""
        self.started.set()
        time.sleep(self.pause)
        assert self.gate.wait(SECONDS)
        self.batches.append([int(value) for value in images_NYXC[:, 0, 0, 0]])
        if self.failure:
            raise self.failure
        return {"logits": images_NYXC[:, 0, 0, :].astype(np.float32)}


class Echo(TimedSession):
    """The same, timed; it has not been warmed up."""

    def __init__(self, *, open_gate: bool = True, failure: Exception | None = None) -> None:
        self.inner = Gated(open_gate=open_gate, failure=failure)
        super().__init__(self.inner)
        self.gate, self.started, self.batches = self.inner.gate, self.inner.started, self.inner.batches


def warmed_up(*, seconds: float = 0.0) -> Echo:
    """A session that has been warmed up, its gate closed since.

    Args:
        seconds: that each run of the warm-up took in addition.
    """
    session = Echo()
    session.inner.pause = seconds
    session.warm_up((1, 1, 1, 1))
    session.warm_up((4, 1, 1, 1))
    session.inner.pause = 0.0
    session.gate.clear()
    session.started.clear()
    session.batches.clear()
    return session


def images(*values: int) -> np.ndarray:
    """One small image for each value."""
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def values(answer: Answer) -> list[int]:
    """What `Echo` gave back."""
    return [int(value) for value in answer.outputs["logits"][:, 0]]


async def wait_for(event: threading.Event) -> None:
    """Wait for a thread's event without blocking the loop."""
    assert await asyncio.to_thread(event.wait, SECONDS)


async def occupy(batcher: Batcher, session: Echo) -> "asyncio.Task[Answer]":
    """Have the only stream run a request until the session's gate opens."""
    task = asyncio.create_task(batcher.run(session, images(0)))
    await wait_for(session.started)
    return task
