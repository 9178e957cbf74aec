"""How a stage shows that it goes on, without knowing where: a bar of `total` steps."""

from contextlib import AbstractContextManager
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
