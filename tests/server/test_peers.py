"""What workers ask each other, over real sockets."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from headwise_server.peers import PeerError, Peers, socket_name

Worker = Callable[..., Peers]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """Makes the worker of a number, which is closed at the end."""
    with ExitStack() as stack:

        def make(number: int) -> Peers:
            made = Peers(tmp_path, number)
            stack.callback(made.close)
            return made

        yield make


async def said(text: str) -> str:
    """An answer."""
    return f"heard {text}"


async def test_all_others_are_asked_and_the_one_that_asks_is_not(worker: Worker) -> None:
    """By their numbers; long answers come whole."""
    workers = [worker(number) for number in range(3)]
    for each in workers:
        await each.listen({"say": said})
    text = "x\n\N{SNOWMAN}" * 100_000
    for each in workers:
        expected = {str(other.number): f"heard {text}" for other in workers if other is not each}
        assert await each.ask("say", text) == expected


async def test_lone_server_asks_nobody() -> None:
    """It has no folder, and needs none."""
    alone = Peers()
    await alone.listen({"say": said})
    assert not alone.are_possible
    assert await alone.ask("say") == {}


async def test_worker_that_has_ended_is_not_asked(tmp_path: Path) -> None:
    """Its socket may still be there."""
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / socket_name(0, 0)))
        ended.listen()
    assert await Peers(tmp_path, 1).ask("say") == {}


async def test_worker_that_has_hung_for_long_is_not_taken_for_one_that_has_ended(tmp_path: Path) -> None:
    """When no more connections fit into those that it has not looked at."""
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / socket_name(0, 0)))
        hanging.listen(1)
        for _ in range(5):
            (answer,) = (await Peers(tmp_path, 1).ask("say", timeout_seconds=0.1)).values()
            assert isinstance(answer, PeerError)


async def test_worker_that_hangs_is_an_error_in_time(worker: Worker) -> None:
    """The others' answers are there."""
    goes_on = asyncio.Event()

    async def hang(_: str) -> str:
        await goes_on.wait()
        return "at last"

    workers = [worker(number) for number in range(3)]
    for each, answer in zip(workers, (hang, said, said), strict=True):
        await each.listen({"say": answer})
    answers = await workers[2].ask("say", "this", timeout_seconds=0.5)
    goes_on.set()
    assert answers["1"] == "heard this"
    assert isinstance(answers["0"], PeerError)
    assert str(answers["0"]) == "expected an answer to 'say' within 0.5 s, found none."


async def test_reason_of_a_worker_that_cannot_is_passed_on(worker: Worker) -> None:
    """It goes on listening."""

    async def fail(_: str) -> str:
        raise ValueError("no such model")

    able, asking = worker(0), worker(1)
    await able.listen({"fail": fail, "say": said})
    (error,) = (await asking.ask("fail")).values()
    assert isinstance(error, PeerError)
    assert str(error) == "no such model"
    assert await asking.ask("say", "this") == {"0": "heard this"}


async def test_socket_lets_in_the_user_alone(worker: Worker, tmp_path: Path) -> None:
    """Its folder does as well."""
    await worker(0).listen({"say": said})
    assert (tmp_path / socket_name(0, 0)).stat().st_mode & 0o077 == 0
