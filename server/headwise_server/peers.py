"""What the workers of one server ask each other: their health, their metrics, and to load or unload a model too.

Each worker listens on a socket in a folder that the server's user alone can enter. Whoever has a socket there, and
listens, is a worker. Each connection is one question, which ends with its half, and one answer:

    -> {"question": "load", "argument": "digits"}
    <- {"answer": ""} or {"error": "why not"}
"""

import asyncio
import json
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from headwise_server.listening import ListeningSocket

Answers = Mapping[str, Callable[[str], Awaitable[str]]]  # by question; from its argument
SUFFIX = ".sock"
PEER_SECONDS = 5.0  # for what others can say at once; Prometheus waits for 10


def socket_name(number: int, generation: int) -> str:
    """Of a worker's socket; no two workers ever have the same."""
    return f"{number}-{generation}{SUFFIX}"


class PeerError(Exception):
    """A worker did not do what it was asked; the message says why."""


class Peers:
    """The other workers of a server. Belongs to one event loop.

    Args:
        folder: where their sockets are; None for a server that is one process.
        number: of this worker; the one that takes the place of another has its number.
        generation: how many had the number before.
    """

    def __init__(self, folder: Path | None = None, number: int = 0, generation: int = 0) -> None:
        self.number = number
        self._folder, self._name = folder, socket_name(number, generation)
        self._server: asyncio.Server | None = None

    @property
    def are_possible(self) -> bool:
        """Whether the server is more than one process."""
        return self._folder is not None

    async def listen(self, answers: Answers) -> None:
        """Be a worker from now on.

        Args:
            answers: what this one says; an exception's text is the reason why it does not.
        """
        if self._folder is None:
            return

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                asked = json.loads(await reader.read())
                try:
                    reply = {"answer": await answers[asked["question"]](asked["argument"])}
                except Exception as error:
                    reply = {"error": str(error) or type(error).__name__}
                writer.write(json.dumps(reply).encode())
                await writer.drain()
            except (ConnectionError, ValueError):  # the other has ended meanwhile
                pass
            finally:
                writer.close()

        path = self._folder / self._name
        listening = ListeningSocket(socket.AF_UNIX)
        listening.bind(str(path))
        self._server = await asyncio.start_unix_server(answer, sock=listening)
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)

    def close(self) -> None:
        """Be a worker no longer."""
        if self._server:
            self._server.close()

    async def ask(
        self, question: str, argument: str = "", timeout_seconds: float | None = None
    ) -> "dict[str, str | PeerError]":
        """What all others that are there answer, by their names; the error of one that does not, or not in time."""
        paths = self._others()
        asked = (self._answer(path, question, argument, timeout_seconds) for path in paths)
        answers = zip(paths, await asyncio.gather(*asked), strict=True)
        return {path.stem.partition("-")[0]: answer for path, answer in answers if answer is not None}

    def _others(self) -> list[Path]:
        if self._folder is None:
            return []
        return sorted(path for path in self._folder.glob(f"*{SUFFIX}") if path.name != self._name)

    async def _answer(
        self, path: Path, question: str, argument: str, timeout_seconds: float | None
    ) -> "str | PeerError | None":
        """What one of them says; None where nobody listens any more."""
        try:
            async with asyncio.timeout(timeout_seconds):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    writer.write(json.dumps({"question": question, "argument": argument}).encode())
                    writer.write_eof()
                    reply = json.loads(await reader.read())
                finally:
                    writer.close()
        except TimeoutError:
            return PeerError(f"expected an answer to {question!r} within {timeout_seconds} s, found none.")
        except (FileNotFoundError, ConnectionError, ValueError):  # it has ended, perhaps before it had written all
            return None
        except OSError as error:  # it has hung for so long that nothing more can wait for it
            return PeerError(f"expected to reach it, found: {error.strerror or error}.")
        return PeerError(reply["error"]) if "error" in reply else str(reply["answer"])
