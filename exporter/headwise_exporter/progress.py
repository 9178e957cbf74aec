"""How a stage shows that it goes on, without knowing where: a bar that counts images, or something else by its name."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Count = Callable[[int], None]  # called with how many more images were gone through


def uncounted(images: int) -> None:
    """A count that nobody looks at."""


class Advance(Protocol):
    """Moves a bar on; also a `Count`."""

    def __call__(self, count: int = 1, note: str | None = None, *, resumed: bool = False) -> None:
        """So many more of the bar's unit, with a note to show; without one the last note stays.

        Args:
            resumed: they were done before the bar opened, and say nothing about its speed.
        """
        ...


class Progress(Protocol):
    """Opens bars."""

    def __call__(self, description: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """A bar over `total` of a unit (images, say), open while the context is.

        Args:
            total: None where it cannot be known.
        """
        ...


def unseen(count: int = 1, note: str | None = None, *, resumed: bool = False) -> None:
    """Moves no bar."""


@contextmanager
def silent(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    """A bar that shows nothing."""
    yield unseen


def counted(count: int, unit: str) -> str:
    """A number and its unit, which is given in the plural: `1 image`, `2 images`."""
    return f"{count:,} {unit.removesuffix('s') if count == 1 else unit}"


def duration(seconds: float) -> str:
    """A length of time in words, rounded to what an estimate is good for: `40 seconds`, `50 minutes`, `2.5 hours`."""
    if seconds < 90:
        return counted(max(1, round(seconds)), "seconds")
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
