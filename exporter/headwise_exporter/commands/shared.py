"""What every command does alike: errors as one line, threads, and the line about a stage that is up to date."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from headwise.bundle import BundleError
from rich.markup import escape

from headwise_exporter.commands import console
from headwise_exporter.errors import ExporterError

INTERRUPTED = 130  # as a shell says of a program that Ctrl-C ended


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what can go wrong into one message and an exit status."""
    try:
        yield
    except (BundleError, ExporterError) as error:
        console.err.print(f"[red]exporter:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except PermissionError as error:  # of a file that no module expects to be refused
        named = f"{error.filename}: {error.strerror}. Run as a user who may, or choose another place."
        console.err.print(f"[red]exporter:[/] {escape(named)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.err.print("interrupted; the same command goes on where this one stopped", highlight=False)
        raise typer.Exit(INTERRUPTED) from None


def set_threads(threads: int | None) -> None:
    """Of torch; all cores by default."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def say(stage: str, done: bool) -> None:
    """That a stage had nothing to do."""
    if not done:
        console.err.print(f"{stage}: up to date", style="dim", highlight=False)
