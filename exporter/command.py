"""What every command does alike: errors as one line, threads, and what is said of a stage."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import typer
from headwise.bundle import BundleError
from rich.markup import escape

from exporter import console
from exporter.checkpoints import CheckpointError
from exporter.datasets import DatasetError
from exporter.files import OutputError
from exporter.onnx_export import ExportError
from exporter.pipeline import RunError
from exporter.pruning import PruningError
from exporter.recipes import RecipeError
from exporter.training import TrainingError

ERRORS = (
    BundleError,
    CheckpointError,
    DatasetError,
    ExportError,
    OutputError,
    PruningError,
    RecipeError,
    RunError,
    TrainingError,
)
INTERRUPTED = 130  # as a shell says of a program that Ctrl-C ended


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what can go wrong into one message and an exit status."""
    try:
        yield
    except ERRORS as error:
        console.err.print(f"[red]exporter:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.err.print("interrupted; the same command goes on where this one stopped", highlight=False)
        raise typer.Exit(INTERRUPTED) from None


def set_threads(threads: int | None) -> None:
    """Of torch; all cores by default."""
    if threads is not None:
        torch.set_num_threads(threads)


def say(stage: str, done: bool) -> None:
    """That a stage had nothing to do."""
    if not done:
        console.err.print(f"{stage}: up to date", style="dim", highlight=False)
