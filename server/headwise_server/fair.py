"""A bounded queue that serves its clients in turn, so that none waits for the backlog of another.

Each entry has a weight. How much one client may have waiting depends on what is free: at most `SHARE` times the room
that it leaves [Choudhury and Hahne, "Dynamic queue length thresholds", 1998]. One client alone can take four fifths of
the queue, and whoever comes next still finds a place. Only the first entry of a client may take all that is free, so
that a large one is not refused for ever.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

SHARE = 4
Entry = TypeVar("Entry", bound=Hashable)


def fits(own: float, used: float, weight: float, limit: float) -> bool:
    """Whether a client that has `own` of what is `used` may have `weight` more.

    Args:
        limit: of what may be used in all.
    """
    if not own:
        return used + weight <= limit
    return own + weight <= SHARE * (limit - used - weight)


class FairQueue(Generic[Entry]):
    """Entries by client. Belongs to one thread.

    Args:
        limit: of the weights of all that waits.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.weight = 0.0  # of all that waits
        self._clients: dict[str, dict[Entry, float]] = {}  # clients in the order of their turns, entries by age
        self._weights: defaultdict[str, float] = defaultdict(float)  # of what each client has waiting

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entries in self._clients.values() for entry in entries)

    def has_room(self, client: str, weight: float) -> bool:
        """Whether an entry of that weight may be pushed."""
        return fits(self._weights.get(client, 0.0), self.weight, weight, self.limit)

    def push(self, client: str, entry: Entry, weight: float) -> None:
        """Add an entry behind all others of its client."""
        self._clients.setdefault(client, {})[entry] = weight
        self._weights[client] += weight
        self.weight += weight

    def discard(self, client: str, entry: Entry) -> bool:
        """Take an entry out, wherever it stands; whether it was there."""
        entries = self._clients.get(client, {})
        if entry not in entries:
            return False
        weight = entries.pop(entry)
        self.weight -= weight
        self._weights[client] -= weight
        if not entries:
            del self._clients[client], self._weights[client]
        return True

    def take(self, is_suitable: Callable[[Entry], bool]) -> Entry | None:
        """The oldest suitable entry of the client whose turn it is; the others come before it the next time."""
        for client, entries in self._clients.items():
            entry = next(filter(is_suitable, entries), None)
            if entry is not None:
                self.discard(client, entry)
                if client in self._clients:
                    self._clients[client] = self._clients.pop(client)
                return entry
        return None
