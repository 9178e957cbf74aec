"""A process without file descriptors, as asyncio sees it."""

import asyncio
import errno
import socket
import time
from typing import Any

from headwise_server.listening import ListeningSocket
from support import LONG_SECONDS


class OutOfDescriptors(ListeningSocket):
    """Has none for half a second from the first attempt on."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts, self.end = 0, 0.0

    def _accept(self) -> Any:
        """What `accept` calls."""
        self.end = self.end or time.monotonic() + 0.5
        if time.monotonic() < self.end:
            self.attempts += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super()._accept()  # type: ignore[misc]  # not in the published types


async def test_attempts_are_a_second_apart() -> None:
    """However long the backlog; who waits meanwhile is accepted in the end, and others after that."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["message"]))
    listening = OutOfDescriptors()
    listening.bind(("127.0.0.1", 0))
    async with asyncio.timeout(LONG_SECONDS), await asyncio.start_server(answer, sock=listening, backlog=2048):
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"here\n")
            assert await reader.read() == b"here\n"
            writer.close()
    assert errors == ["socket.accept() out of system resource"]
    assert listening.attempts == 1


async def test_other_errors_stay_as_they_are() -> None:
    """A socket without connections is asked again at once."""
    with ListeningSocket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        with socket.create_connection(listening.getsockname()):
            accepted = 0
            while not accepted:
                try:
                    connection, _ = listening.accept()
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                else:
                    connection.close()
                    accepted += 1
