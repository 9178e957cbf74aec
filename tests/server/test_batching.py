"""The batcher: bounded, clients in turn, and nobody pays for another's cancellation."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import support
from headwise_server import batching
from headwise_server.batching import Answer, Batcher
from headwise_server.errors import DeadlineUnmet, Internal, NotReady, Overloaded
from headwise_server.telemetry import Telemetry
from hypothesis import given, settings
from sessions import Echo, images, occupy, values, wait_for, warmed_up

SECONDS = support.LONG_SECONDS
WASTES = ("wasted", "abandoned")


@pytest.fixture
async def batcher() -> AsyncIterator[Batcher]:
    """One stream, batches of 4 images, 20 may wait, 16 of them of one client."""
    with ThreadPoolExecutor(4) as pool:
        made = Batcher(pool, streams=1, max_batch=4, max_queue=20)
        yield made
        await made.close()


async def test_lone_request_runs_at_once(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer: nothing waits for company."""
    timers: list[float] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "call_at", lambda when, *arguments, **context: timers.append(when))
    began = time.monotonic()
    answer = await batcher.run(Echo(), images(7))
    assert values(answer) == [7]
    assert timers == []
    assert 0 <= answer.queue_seconds <= time.monotonic() - began


async def test_what_waits_is_batched_and_everyone_gets_their_own(batcher: Batcher) -> None:
    """Requests that pile up behind a busy stream run together, in order, as many as fit."""
    session = Echo(open_gate=False)
    first = await occupy(batcher, session)
    sizes = [(1, 2), (3,), (4, 5), (6,)]
    waiting = [asyncio.create_task(batcher.run(session, images(*size))) for size in sizes]
    await asyncio.sleep(0)
    assert batcher.waiting_images == 6
    session.gate.set()
    answers = await asyncio.gather(first, *waiting)
    assert [values(answer) for answer in answers] == [[0], [1, 2], [3], [4, 5], [6]]
    assert session.batches == [[0], [1, 2, 3, 6], [4, 5]]


async def test_models_do_not_share_a_batch(batcher: Batcher) -> None:
    """A batch holds the requests of one session; the oldest request decides which."""
    busy, one, other = Echo(open_gate=False), Echo(), Echo()
    first = await occupy(batcher, busy)
    waiting = [
        asyncio.create_task(batcher.run(session, images(value)))
        for session, value in ((one, 1), (other, 2), (one, 3), (other, 4))
    ]
    await asyncio.sleep(0)
    busy.gate.set()
    assert [values(answer) for answer in await asyncio.gather(first, *waiting)] == [[0], [1], [2], [3], [4]]
    assert (one.batches, other.batches) == ([[1, 3]], [[2, 4]])


@pytest.mark.parametrize("cancelled", [0, 1, 2, 3])
async def test_member_cancelled_while_its_batch_runs_takes_nothing_from_the_others(
    batcher: Batcher, cancelled: int
) -> None:
    """At any position of the batch: the others are answered, and the stream is free again."""
    busy, session = Echo(open_gate=False), Echo(open_gate=False)
    first = await occupy(batcher, busy)
    members = [asyncio.create_task(batcher.run(session, images(value))) for value in (1, 2, 3, 4)]
    await asyncio.sleep(0)
    busy.gate.set()
    await first
    await wait_for(session.started)
    members[cancelled].cancel()
    session.gate.set()
    results = await asyncio.wait_for(asyncio.gather(*members, return_exceptions=True), SECONDS)
    for position, result in enumerate(results):
        if position == cancelled:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert isinstance(result, Answer)
            assert values(result) == [position + 1]
    assert values(await batcher.run(session, images(9))) == [9]


@pytest.mark.parametrize("cancelled", [0, 1, 2, 3])
async def test_member_cancelled_while_it_waits_is_never_run(batcher: Batcher, cancelled: int) -> None:
    """It leaves the queue at once: no inference is wasted on it, and its place is free."""
    session = Echo(open_gate=False)
    first = await occupy(batcher, session)
    waiting = [asyncio.create_task(batcher.run(session, images(value))) for value in (1, 2, 3, 4)]
    await asyncio.sleep(0)
    waiting[cancelled].cancel()
    await asyncio.sleep(0)
    assert batcher.waiting_images == 3
    session.gate.set()
    await asyncio.wait_for(asyncio.gather(first, *waiting, return_exceptions=True), SECONDS)
    assert session.batches == [[0], [value for value in (1, 2, 3, 4) if value != cancelled + 1]]


async def test_expired_request_is_answered_and_never_run(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its deadline passes while it waits: DEADLINE_EXCEEDED, and the engine never sees it."""
    session = Echo(open_gate=False)
    first = await occupy(batcher, session)
    deadline = time.monotonic() + 1000
    late = asyncio.create_task(batcher.run(session, images(1), deadline))
    await asyncio.sleep(0)
    monkeypatch.setattr(batching, "time", SimpleNamespace(monotonic=lambda: deadline))
    session.gate.set()
    await first
    with pytest.raises(DeadlineUnmet, match="passed while the request waited"):
        await late
    assert session.batches == [[0]]


async def test_deadline_that_cannot_be_met_is_refused_on_arrival(batcher: Batcher) -> None:
    """What is known to come too late is not started."""
    session = Echo()
    with pytest.raises(DeadlineUnmet, match=r"expected at least \d.* until the deadline, found 0.000 s"):
        await batcher.run(session, images(1), time.monotonic() - 1)
    assert session.batches == []


async def test_deadline_shorter_than_what_is_ahead_is_refused_on_arrival(batcher: Batcher) -> None:
    """By what the warm-up took: a quarter of a second for a batch, and one runs."""
    session = warmed_up(seconds=0.25)
    first = await occupy(batcher, session)
    with pytest.raises(DeadlineUnmet, match=r"expected at least 0.2\d* s until the deadline"):
        await batcher.run(session, images(1), time.monotonic() + 0.1)
    session.gate.set()
    await first
    assert session.batches == [[0]]


async def test_idle_engine_takes_any_deadline_that_has_not_passed(batcher: Batcher) -> None:
    """Whatever was measured before: otherwise nothing would ever be measured again."""
    session = warmed_up(seconds=0.25)
    session.gate.set()
    began = time.monotonic()
    answer = await batcher.run(session, images(3), began + 0.2)
    assert values(answer) == [3]


async def test_clients_take_turns(batcher: Batcher) -> None:
    """Behind the backlog of one, another's request is in the next batch, with what fits beside it."""
    session = Echo(open_gate=False)
    first = await occupy(batcher, session)
    greedy = [asyncio.create_task(batcher.run(session, images(1, 2, 3), client="greedy")) for _ in range(3)]
    await asyncio.sleep(0)
    modest = asyncio.create_task(batcher.run(session, images(9), client="modest"))
    await asyncio.sleep(0)
    session.gate.set()
    await asyncio.gather(first, modest, *greedy)
    assert session.batches == [[0], [1, 2, 3, 9], [1, 2, 3], [1, 2, 3]]


async def test_client_that_fills_its_share_leaves_room_for_others(batcher: Batcher) -> None:
    """One is refused, while another still finds a place."""
    session = Echo(open_gate=False)
    first = await occupy(batcher, session)
    greedy = [asyncio.create_task(batcher.run(session, images(1, 2, 3, 4), client="greedy")) for _ in range(5)]
    await asyncio.sleep(0)
    modest = asyncio.create_task(batcher.run(session, images(9), client="modest"))
    await asyncio.sleep(0)
    session.gate.set()
    results = await asyncio.gather(*greedy, return_exceptions=True)
    assert [type(result) for result in results] == [Answer] * 4 + [Overloaded]
    assert values(await modest) == [9]
    await first


async def test_patient_request_waits_for_room(batcher: Batcher) -> None:
    """It is not refused where others are, and is answered once there is room."""
    session = Echo(open_gate=False)
    first = await occupy(batcher, session)
    waiting = [asyncio.create_task(batcher.run(session, images(1, 2, 3, 4))) for _ in range(4)]
    await asyncio.sleep(0)
    patient = asyncio.create_task(batcher.run(session, images(5), waits_for_room=True))
    await asyncio.sleep(0)
    assert batcher.waiting_images == 16
    session.gate.set()
    assert values(await patient) == [5]
    await asyncio.gather(first, *waiting)


async def test_full_queue_refuses_at_once_with_a_time_to_retry(batcher: Batcher) -> None:
    """The bound is in images; the delay follows from what was measured."""
    session = warmed_up()
    first = await occupy(batcher, session)
    waiting = [asyncio.create_task(batcher.run(session, images(1, 2, 3, 4))) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="16 images wait") as caught:
        await asyncio.wait_for(batcher.run(session, images(5)), SECONDS)
    assert 0 < caught.value.retry_seconds < 60
    session.gate.set()
    await asyncio.gather(first, *waiting)
    assert values(await batcher.run(session, images(5))) == [5]


async def test_late_request_leaves_the_queue_though_others_have_no_deadline(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is ended at the first batch after its own deadline, whichever came first, and the others are run."""
    session = Echo(open_gate=False)
    first = await occupy(batcher, session)
    now = time.monotonic()
    deadlines = (None, now + 3000, now + 1000, None, now + 2000)
    waiting = [
        asyncio.create_task(batcher.run(session, images(number), deadline, client=str(number)))
        for number, deadline in enumerate(deadlines, start=1)
    ]
    await asyncio.sleep(0)
    monkeypatch.setattr(batching, "time", SimpleNamespace(monotonic=lambda: now + 2500))
    session.gate.set()
    await first
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(answer, DeadlineUnmet) for answer in answers] == [False, False, True, False, True]
    assert [value for batch in session.batches for value in batch] == [0, 1, 2, 4]


async def test_engine_error_reaches_its_batch_and_nobody_else(batcher: Batcher) -> None:
    """Every member gets INTERNAL with the engine's words; the next batch runs."""
    busy, broken = Echo(open_gate=False), Echo(failure=RuntimeError("out of memory"))
    first = await occupy(batcher, busy)
    members = [asyncio.create_task(batcher.run(broken, images(value))) for value in (1, 2)]
    await asyncio.sleep(0)
    busy.gate.set()
    await first
    for result in await asyncio.gather(*members, return_exceptions=True):
        assert isinstance(result, Internal)
        assert "the engine failed: out of memory" in str(result)
    assert values(await batcher.run(Echo(), images(3))) == [3]


async def test_streams_run_at_the_same_time() -> None:
    """Two streams: a second batch starts while the first still runs, a third does not."""
    with ThreadPoolExecutor(4) as pool:
        batcher = Batcher(pool, streams=2, max_batch=1, max_queue=8)
        sessions = [Echo(open_gate=False) for _ in range(3)]
        tasks = [asyncio.create_task(batcher.run(session, images(1))) for session in sessions]
        await wait_for(sessions[0].started)
        await wait_for(sessions[1].started)
        assert batcher.waiting_images == 1
        assert not sessions[2].started.is_set()
        for session in sessions:
            session.gate.set()
        await asyncio.gather(*tasks)
        await batcher.close()


async def test_closing_answers_what_waits_and_refuses_what_comes(batcher: Batcher) -> None:
    """A drain loses nothing that was accepted."""
    session = Echo(open_gate=False)
    tasks = [await occupy(batcher, session)]
    tasks += [asyncio.create_task(batcher.run(session, images(value))) for value in range(1, 11)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(NotReady, match="shutting down"):
        await batcher.run(session, images(99))
    assert not closing.done()
    session.gate.set()
    await asyncio.wait_for(closing, SECONDS)
    assert [values(task.result()) for task in tasks] == [[value] for value in range(11)]


async def test_request_larger_than_a_batch_is_run_in_pieces(batcher: Batcher) -> None:
    """It is answered as one."""
    session = Echo()
    assert values(await batcher.run(session, images(*range(6)))) == list(range(6))
    assert session.batches == [[0, 1, 2, 3], [4, 5]]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["wait", "cancel", "late"])), max_size=12))
def test_whatever_happens_everyone_is_answered_once_and_the_queue_ends_empty(
    requests: list[tuple[int, str]],
) -> None:
    """Any mix of sizes, cancellations and deadlines: right answers, nothing left over, no batch too large."""

    async def scenario() -> None:
        with ThreadPoolExecutor(2) as pool:
            batcher = Batcher(pool, streams=1, max_batch=4, max_queue=1000)
            session = Echo(open_gate=False)
            first = await occupy(batcher, session)
            tasks = []
            for number, (size, kind) in enumerate(requests):
                deadline = time.monotonic() + 1000 if kind != "late" else time.monotonic() + 1e-9
                tasks.append(asyncio.create_task(batcher.run(session, images(*[number + 1] * size), deadline)))
            await asyncio.sleep(0)
            for task, (_, kind) in zip(tasks, requests, strict=True):
                if kind == "cancel":
                    task.cancel()
            session.gate.set()
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SECONDS)
            await first
            for number, ((size, kind), result) in enumerate(zip(requests, results, strict=True)):
                if kind == "wait":
                    assert isinstance(result, Answer)
                    assert values(result) == [number + 1] * size
                else:
                    assert isinstance(result, asyncio.CancelledError if kind == "cancel" else DeadlineUnmet)
            assert batcher.waiting_images == 0
            unwanted = {number + 1 for number, (_, kind) in enumerate(requests) if kind != "wait"}
            assert not unwanted & {value for batch in session.batches for value in batch}
            assert all(len(batch) <= 4 for batch in session.batches)
            await batcher.close()

    asyncio.run(scenario())


async def test_what_ends_between_a_batch_and_its_engine_is_not_run() -> None:
    """One is cancelled and one's deadline passes while the engine's thread is blocked; the others run."""
    telemetry, session, blocked = Telemetry(), Echo(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        batcher = Batcher(pool, streams=1, max_batch=8, max_queue=20, telemetry=telemetry)
        first = await occupy(batcher, earlier := Echo(open_gate=False))
        pool.submit(blocked.wait, SECONDS)
        deadline = time.monotonic() + 0.2
        deadlines = {1: None, 2: deadline, 3: None, 4: None}
        tasks = [asyncio.create_task(batcher.run(session, images(value), end)) for value, end in deadlines.items()]
        await asyncio.sleep(0)
        earlier.gate.set()
        await first  # the batch is formed now
        tasks[2].cancel()
        await asyncio.sleep(deadline - time.monotonic() + 0.01)
        blocked.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()
    assert session.batches == [[1, 4]]
    assert [values(result) for result in results if isinstance(result, Answer)] == [[1], [4]]
    assert isinstance(results[1], DeadlineUnmet)
    assert isinstance(results[2], asyncio.CancelledError)
    assert {name: telemetry.registry.get_sample_value(f"headwise_{name}_images_total") for name in WASTES} == {
        "wasted": 0,
        "abandoned": 0,
    }


async def test_batch_that_nobody_wants_any_more_is_not_run() -> None:
    """Not even an empty one; the stream is free again."""
    session, blocked = Echo(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        batcher = Batcher(pool, streams=1, max_batch=8, max_queue=20)
        pool.submit(blocked.wait, SECONDS)
        task = asyncio.create_task(batcher.run(session, images(1)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        blocked.set()
        assert values(await batcher.run(session, images(2))) == [2]
        await batcher.close()
    assert session.batches == [[2]]


async def test_who_leaves_as_the_engine_begins_and_while_it_runs_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wasted are images that the engine begins with for nobody, abandoned those whose caller leaves meanwhile."""
    telemetry, session = Telemetry(), Echo(open_gate=False)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        batcher = Batcher(pool, streams=1, max_batch=8, max_queue=20, telemetry=telemetry)
        first = await occupy(batcher, earlier := Echo(open_gate=False))
        tasks = [asyncio.create_task(batcher.run(session, images(*numbers))) for numbers in ((1,), (2, 3), (4,))]
        await asyncio.sleep(0)

        async def leave(task: "asyncio.Task[Answer]") -> None:
            task.cancel()
            await asyncio.wait([task])

        def observe(_: float) -> None:  # called by the engine's thread once the members are known
            asyncio.run_coroutine_threadsafe(leave(tasks[0]), loop).result(SECONDS)

        monkeypatch.setattr(telemetry.batch_images, "observe", observe)
        earlier.gate.set()
        await first
        await wait_for(session.started)
        await leave(tasks[1])
        session.gate.set()
        assert values(await tasks[2]) == [4]
        await batcher.close()
    assert session.batches == [[1, 2, 3, 4]]
    assert {name: telemetry.registry.get_sample_value(f"headwise_{name}_images_total") for name in WASTES} == {
        "wasted": 1,
        "abandoned": 2,
    }
