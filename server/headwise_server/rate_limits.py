"""How fast each client may send: token buckets of calls and of images.

A bucket holds what may be sent in `BURST_SECONDS`, one at least. It is kept as the time at which it will be full again:
what is taken moves that time on, and a bucket that is full by now is none that has to be remembered. What is larger
than a bucket is let through when the bucket is full, and the next waits for longer.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from headwise_server.errors import RateLimited
from headwise_server.identity import Identity, Limits

BURST_SECONDS = 1.0
MAX_CLIENTS = 100_000  # remembered; beyond them whoever was seen longest ago is forgotten


class Buckets:
    """A bucket for each client. Belongs to one thread.

    Args:
        now: a clock in seconds that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._full_at: OrderedDict[str, float] = OrderedDict()  # who was seen longest ago comes first

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_seconds(self, client: str, amount: float, per_second: float) -> float:
        """How long it takes until so much may be taken; 0 for now."""
        capacity = max(BURST_SECONDS * per_second, 1.0)
        missing_seconds = max(0.0, self._full_at.get(client, 0.0) - self._now())
        return max(0.0, missing_seconds - (capacity - min(amount, capacity)) / per_second)

    def take(self, client: str, amount: float, per_second: float) -> None:
        """Take so much, whether or not it is there."""
        now = self._now()
        self._full_at[client] = max(now, self._full_at.get(client, 0.0)) + amount / per_second
        self._full_at.move_to_end(client)
        while self._full_at:
            oldest, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) <= MAX_CLIENTS:
                return
            del self._full_at[oldest]


class RateLimits:
    """The rates of all clients. Belongs to one event loop.

    Args:
        limits: of clients that have none of their own.
    """

    def __init__(self, limits: Limits | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or Limits()
        self._calls, self._images = Buckets(now), Buckets(now)

    def take_call(self, identity: Identity) -> None:
        """Count a call.

        Raises:
            RateLimited: the client calls too often.
        """
        if rate := (identity.limits or self._limits).calls_per_second:
            self._take(self._calls, identity.limited_as, 1, rate, "calls")

    async def take_images(self, identity: Identity, images: int, *, waits: bool) -> None:
        """Count images.

        Args:
            waits: until they may be sent, rather than being refused.

        Raises:
            RateLimited: the client sends more than it may.
        """
        rate = (identity.limits or self._limits).images_per_second
        if not rate:
            return
        if not waits:
            self._take(self._images, identity.limited_as, images, rate, "images")
            return
        seconds = self._images.wait_seconds(identity.limited_as, images, rate)
        self._images.take(identity.limited_as, images, rate)  # others come after it
        await asyncio.sleep(seconds)

    def _take(self, buckets: Buckets, client: str, amount: int, rate: float, unit: str) -> None:
        if seconds := buckets.wait_seconds(client, amount, rate):
            raise RateLimited(f"{rate:g} {unit} a second", seconds)
        buckets.take(client, amount, rate)
