"""Decoding in threads: bounded, in turns, and nobody pays for another's image."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import support
from headwise_server import decoders
from headwise_server.decoders import Decoders
from headwise_server.errors import DeadlineUnmet, Overloaded
from hypothesis import given, settings

SECONDS = support.LONG_SECONDS
THREADS, LIMIT_BYTES, MAX_QUEUE = 2, 100, 20


class Work:
    """Jobs that wait at a gate, and what was seen of them."""

    def __init__(self) -> None:
        self.gate, self.lock = threading.Event(), threading.Lock()
        self.begun: list[object] = []
        self.at_a_time, self.bytes_at_a_time, self.most, self.most_bytes = 0, 0, 0, 0

    def job(self, name: object, memory_bytes: int = 1) -> Callable[[], object]:
        """A job that gives its name."""

        def work() -> object:
            with self.lock:
                self.begun.append(name)
                self.at_a_time += 1
                self.bytes_at_a_time += memory_bytes
                self.most = max(self.most, self.at_a_time)
                self.most_bytes = max(self.most_bytes, self.bytes_at_a_time)
            assert self.gate.wait(SECONDS)
            with self.lock:
                self.at_a_time -= 1
                self.bytes_at_a_time -= memory_bytes
            return name

        return work

    async def has_begun(self, count: int) -> None:
        """Wait until so many jobs run or have run."""
        await asyncio.to_thread(support.wait_until, lambda: len(self.begun) >= count)


@pytest.fixture
async def pool() -> AsyncIterator[ThreadPoolExecutor]:
    """More threads than are to be used."""
    with ThreadPoolExecutor(2 * THREADS) as made:
        yield made


@pytest.fixture
def made(pool: ThreadPoolExecutor) -> Decoders:
    """Two threads, 100 bytes, a queue of 20."""
    return Decoders(pool, threads=THREADS, memory_bytes=LIMIT_BYTES, max_queue=MAX_QUEUE)


def begin(
    made: Decoders, work: Work, name: object, *, client: str = "somebody", memory_bytes: int = 1
) -> "asyncio.Task[object]":
    """Hand a job in."""

    async def result() -> object:
        return (await made.run(client, [(work.job(name, memory_bytes), memory_bytes)]))[0]

    return asyncio.ensure_future(result())


async def turns(count: int = 20) -> None:
    """Let whatever is ready go on."""
    for _ in range(count):
        await asyncio.sleep(0)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, LIMIT_BYTES), st.booleans()), max_size=15))
def test_threads_and_bytes_are_bounded_and_every_job_is_answered(jobs: list[tuple[str, int, bool]]) -> None:
    """Any mix of sizes, clients and cancellations: no more runs than may, and all others get their own result."""

    async def scenario() -> Work:
        work = Work()
        with ThreadPoolExecutor(len(jobs) + 1) as pool:
            made = Decoders(pool, threads=THREADS, memory_bytes=LIMIT_BYTES, max_queue=MAX_QUEUE)
            tasks = [
                begin(made, work, number, client=client, memory_bytes=size)
                for number, (client, size, _) in enumerate(jobs)
            ]
            await turns()
            for task, (_, _, cancelled) in zip(tasks, jobs, strict=True):
                if cancelled:
                    task.cancel()
            work.gate.set()
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SECONDS)
            for number, (result, (_, _, cancelled)) in enumerate(zip(results, jobs, strict=True)):
                assert isinstance(result, asyncio.CancelledError) if cancelled else result == number
            assert await begin(made, work, "all of it", memory_bytes=LIMIT_BYTES) == "all of it"
            made.check_room("somebody", MAX_QUEUE)
        return work

    work = asyncio.run(scenario())
    assert work.most <= THREADS
    assert work.most_bytes <= LIMIT_BYTES


async def test_large_image_is_not_overtaken_for_ever(made: Decoders) -> None:
    """It waits for memory, and small ones that come later wait for it, though there is room for them."""
    work = Work()
    running = begin(made, work, "running", memory_bytes=60)
    await work.has_begun(1)
    large = begin(made, work, "large", memory_bytes=50)
    small = [begin(made, work, number, client=f"client {number}") for number in range(10)]
    await turns()
    assert work.begun == ["running"]
    work.gate.set()
    await asyncio.wait_for(asyncio.gather(running, large, *small), SECONDS)
    assert work.begun[:2] == ["running", "large"]


async def test_large_image_that_nobody_wants_any_more_makes_way(made: Decoders) -> None:
    """Cancelled while it waits for memory: it never runs, and the next does."""
    work = Work()
    running = begin(made, work, "running", memory_bytes=60)
    await work.has_begun(1)
    large = begin(made, work, "large", memory_bytes=50)
    await turns()
    large.cancel()
    await turns()
    small = begin(made, work, "small")
    await work.has_begun(2)
    work.gate.set()
    assert await asyncio.gather(running, small) == ["running", "small"]
    assert work.begun == ["running", "small"]


async def test_cancelled_job_never_runs(made: Decoders) -> None:
    """Neither does it keep its place."""
    work = Work()
    running = [begin(made, work, "running") for _ in range(THREADS)]
    await work.has_begun(THREADS)
    waiting = [begin(made, work, number) for number in range(4)]
    await turns()
    waiting[1].cancel()
    waiting[3].cancel()
    await turns()
    work.gate.set()
    await asyncio.wait_for(asyncio.gather(*running, *waiting, return_exceptions=True), SECONDS)
    assert sorted(work.begun, key=str) == [0, 2, "running", "running"]


async def test_expired_job_never_runs(made: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its deadline passes while it waits."""
    work, deadline = Work(), time.monotonic() + 1000
    running = [begin(made, work, "running") for _ in range(THREADS)]
    await work.has_begun(THREADS)
    late = asyncio.ensure_future(made.run("somebody", [(work.job("late"), 1)], deadline))
    await turns()
    monkeypatch.setattr(decoders, "time", SimpleNamespace(monotonic=lambda: deadline))
    work.gate.set()
    with pytest.raises(DeadlineUnmet, match="while an image waited to be decoded"):
        await late
    await asyncio.gather(*running)
    assert work.begun == ["running"] * THREADS


async def test_memory_of_a_cancelled_job_is_kept_while_its_thread_runs(made: Decoders) -> None:
    """A thread cannot be interrupted: what it takes still counts."""
    work = Work()
    running = begin(made, work, "running", memory_bytes=60)
    await work.has_begun(1)
    running.cancel()
    next_one = begin(made, work, "next", memory_bytes=50)
    await turns()
    assert work.begun == ["running"]
    work.gate.set()
    assert await asyncio.wait_for(next_one, SECONDS) == "next"


async def test_errors_reach_their_caller_and_nobody_else(made: Decoders) -> None:
    """Whatever a decoder raises; the threads and the memory are free again."""

    def broken() -> object:
        raise ZeroDivisionError("of this image")

    work = Work()
    work.gate.set()
    jobs = [made.run("somebody", [(job, LIMIT_BYTES)]) for job in (broken, work.job("fine"))]
    failed, fine = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(failed, ZeroDivisionError)
    assert fine == ["fine"]
    with pytest.raises(ZeroDivisionError, match="of this image"):
        await made.run("somebody", [(broken, LIMIT_BYTES)])
    assert await begin(made, work, "after", memory_bytes=LIMIT_BYTES) == "after"


async def test_clients_take_turns(pool: ThreadPoolExecutor) -> None:
    """One image of each in turn, however many another has waiting."""
    made, work = Decoders(pool, threads=1, memory_bytes=LIMIT_BYTES, max_queue=MAX_QUEUE), Work()
    running = begin(made, work, "running")
    await work.has_begun(1)
    greedy = [begin(made, work, f"greedy {number}", client="greedy") for number in range(4)]
    await turns()
    modest = [begin(made, work, f"modest {number}", client="modest") for number in range(2)]
    await turns()
    work.gate.set()
    await asyncio.wait_for(asyncio.gather(running, *greedy, *modest), SECONDS)
    expected = ["greedy 0", "modest 0", "greedy 1", "modest 1", "greedy 2", "greedy 3"]
    assert work.begun == ["running", *expected]


async def test_images_of_a_request_enter_together_or_not_at_all(made: Decoders) -> None:
    """However many requests come in the same moment, no more wait than may."""
    work = Work()
    requests = [made.run(str(number), [(work.job(number), 1)] * 8) for number in range(5)]
    calls = [asyncio.ensure_future(request) for request in requests]
    await work.has_begun(THREADS)
    assert [call.done() for call in calls] == [False, False, True, True, True]
    assert made.waiting_images == 2 * 8 - THREADS
    work.gate.set()
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), SECONDS)
    assert results[:2] == [[0] * 8, [1] * 8]
    assert all(isinstance(result, Overloaded) for result in results[2:])


async def test_images_of_a_request_leave_with_the_first_that_fails(made: Decoders) -> None:
    """Those that have not begun are never decoded, and the queue is free."""

    def broken() -> object:
        raise ZeroDivisionError

    work = Work()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(made.run("somebody", [(broken, 1)] + [(work.job(1), 1)] * 10), SECONDS)
    assert made.waiting_images == 0
    work.gate.set()
    assert await begin(made, work, "after") == "after"
    assert work.begun.count(1) <= THREADS


async def test_full_queue_refuses_with_a_time_to_retry(made: Decoders) -> None:
    """One client has four fifths of it; another finds room."""
    work = Work()
    running = [begin(made, work, "running") for _ in range(THREADS)]
    await work.has_begun(THREADS)
    waiting = [begin(made, work, number) for number in range(16)]
    await turns()
    with pytest.raises(Overloaded, match="16 images wait to be decoded") as caught:
        made.check_room("somebody", 1)
    assert caught.value.retry_seconds >= 0
    made.check_room("another", 4)
    work.gate.set()
    await asyncio.wait_for(asyncio.gather(*running, *waiting), SECONDS)
    made.check_room("somebody", MAX_QUEUE)
