"""How a stage shows that it goes on, without knowing where: a bar of `total` steps."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, note: str, steps: int = 1) -> None:
        """So many steps, with a note to show."""
        ...


class Progress(Protocol):
    """Opens bars."""

    def __call__(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """A bar of `total` steps, open while the context is."""
        ...


@contextmanager
def silent(description: str, total: int) -> Iterator[Advance]:
    """A bar that shows nothing."""
    yield lambda note, steps=1: None
