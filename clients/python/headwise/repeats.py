"""When a call that failed is sent again: where the failure passes, and there is time for it.

The server says when, or the waits double, each with chance in it: clients that were refused together do not come back
together.
"""

import itertools
import random
import time
from collections.abc import Iterator

from headwise.errors import HeadwiseError, Overloaded, Unavailable

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 5.0  # before a repeat, where the server does not say


def waits(retries: int, give_up: float) -> Iterator[float | None]:
    """Before each repeat of a call the seconds to wait at least, ever longer; None when there is none left.

    Args:
        give_up: when the call's timeout ends.
    """
    for attempt in itertools.count():
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)  # no secret
        yield wait if attempt < retries and time.monotonic() + wait < give_up else None


def wait_before_repeat(error: HeadwiseError, pauses: Iterator[float | None], give_up: float) -> float:
    """Seconds to wait before a call is repeated.

    Raises:
        HeadwiseError: the error itself, where it is none that passes, or there is no time or repeat left.
    """
    if not isinstance(error, (Overloaded, Unavailable)) or (wait := next(pauses)) is None:
        raise error
    asked = getattr(error, "retry_seconds", None) or 0.0
    if time.monotonic() + max(wait, asked) >= give_up:
        raise error
    return max(wait, asked)
