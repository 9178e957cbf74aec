"""How much memory the requests in hand may take, in all and for each client, charged before it is used.

Counted are messages, the images made of them, and replies until they are sent. What decoding takes is bounded by
`decoders`, and what models take does not grow.
"""

from collections import Counter

from headwise_server.errors import Overloaded
from headwise_server.fair import fits

RETRY_SECONDS = 0.1  # nothing says when a request will be done with its memory [our choice]


class Memory:
    """A budget in bytes. Belongs to one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._clients: Counter[str] = Counter()

    def take(self, client: str, size_bytes: int) -> None:
        """Count bytes that are there already, whether or not there is room for them."""
        self.used_bytes += size_bytes
        self._clients[client] += size_bytes

    def give_back(self, client: str, size_bytes: int) -> None:
        """Inverse of `take`."""
        self.used_bytes -= size_bytes
        self._clients[client] -= size_bytes
        if not self._clients[client]:
            del self._clients[client]

    def has_room(self, client: str, size_bytes: int) -> bool:
        """Whether a client may take so much more."""
        return fits(self._clients[client], self.used_bytes, size_bytes, self.limit_bytes)

    def check(self, client: str, size_bytes: int) -> None:
        """The same, as an error.

        Raises:
            Overloaded: there is no room for it, or none for this client.
        """
        if not self.has_room(client, size_bytes):
            raise self._no_room(size_bytes)

    def _no_room(self, size_bytes: int) -> Overloaded:
        used_mib, need_mib = self.used_bytes / 2**20, size_bytes / 2**20
        return Overloaded(f"requests take {used_mib:.0f} MiB, and this one {need_mib:.1f} MiB more", RETRY_SECONDS)

    def hold(self, client: str, size_bytes: int) -> "Held":
        """Take so much for a while.

        Raises:
            Overloaded: there is no room for it, or none for this client.
        """
        self.check(client, size_bytes)
        return Held(self, client, size_bytes)

    def hold_beyond_share(self, client: str, size_bytes: int) -> "Held":
        """Take so much for a while, though the client may have its share already.

        Raises:
            Overloaded: there is no room for it.
        """
        if self.used_bytes + size_bytes > self.limit_bytes:
            raise self._no_room(size_bytes)
        return Held(self, client, size_bytes)


class Held:
    """Bytes that are counted as long as the context lasts."""

    __slots__ = ("_client", "_memory", "_size_bytes")

    def __init__(self, memory: Memory, client: str, size_bytes: int) -> None:
        self._memory, self._client, self._size_bytes = memory, client, size_bytes

    def __enter__(self) -> None:
        self._memory.take(self._client, self._size_bytes)

    def __exit__(self, *_: object) -> None:
        self._memory.give_back(self._client, self._size_bytes)
