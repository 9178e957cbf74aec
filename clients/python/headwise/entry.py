"""What the commands `headwise`, `headwise-server` and `exporter` share as they start and as they end.

The distribution has one name and several extras, so that a command may be there without its packages. It then says in
one line what to install, before it does any work. An import that fails inside our own code is a fault and stays a
traceback.

What a stream's encoding lacks is written otherwise instead of being an error, a reader that closes its end early
(`exporter recipes | head -1`) ends the command quietly, and a full disk ends it with one line.
"""

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

OWN_PACKAGES = ("headwise", "headwise_exporter", "headwise_server")
INTERRUPTED = 130  # as a shell says of a program that Ctrl-C ended
NOT_WRITTEN = 1  # exit status where nobody reads the output, as typer and rich have it, or it cannot be written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a disk, or of what a user may write to it
# What our tables draw with; rich replaces its own boxes by itself.
DRAWN_PLAINLY = {"█": "#", "│": "|", "━": "-", "─": "-", "…": "."}
WITHOUT_ERRORS = "headwise"  # name of the error handler


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, drawn plainly or as the escape of a Python string."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    plain = (DRAWN_PLAINLY.get(char) or char.encode("ascii", "backslashreplace").decode() for char in missing)
    return "".join(plain), error.end


codecs.register_error(WITHOUT_ERRORS, _plainly)


def _is_missing(package: str) -> bool:
    return sys.modules[package] is None if package in sys.modules else find_spec(package) is None


def require(command: str, packages: Sequence[str], *, name: str, extras: str) -> None:
    """Check that packages can be imported, without importing them: some are needed only after hours of work.

    Args: as `load`.

    Raises:
        SystemExit: some are missing; the message says what to install.
    """
    missing = [package for package in packages if _is_missing(package)]
    if missing:
        what = f"package {missing[0]} is" if len(missing) == 1 else f"packages {', '.join(missing)} are"
        sys.exit(f"{command}: the {what} missing; install {name} with: pip install 'headwise[{extras}]'")


def load(command: str, module: str, *, name: str, extras: str, packages: Sequence[str] = ()) -> Any:
    """The module that a command needs.

    Args:
        command: as the user calls it.
        name: what to install, for the message: "the server".
        extras: of the distribution, as pip takes them: "server,cpu".
        packages: that the extras bring, by the names they are imported by.

    Raises:
        SystemExit: a package of the extras is missing; the message says what to install.
    """
    require(command, packages, name=name, extras=extras)
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", *OWN_PACKAGES):
            raise
        require(command, [package], name=name, extras=extras)
        raise  # the package is there, a module of it is not


def _say_full(command: str, error: OSError) -> None:
    with suppress(OSError):  # the line may be for the same disk
        print(
            f"{command}: cannot write {error.filename or 'the output'}: {error.strerror}.", file=sys.stderr, flush=True
        )


def _is_closed(stream: io.TextIOWrapper, command: str) -> bool:
    """Whether nobody reads a stream, or its disk is full; what is still to be written is then dropped."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if error.errno in FULL:
            _say_full(command, error)
        elif not isinstance(error, BrokenPipeError):
            raise
        return True
    return False


@contextmanager
def _output(command: str) -> Iterator[None]:
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    for stream in streams:
        stream.reconfigure(errors=WITHOUT_ERRORS)
    try:
        yield
    finally:
        closed = [stream for stream in streams if _is_closed(stream, command)]
        if closed:
            sys.exit(NOT_WRITTEN)


def start(command: str, module: str, *, name: str, extras: str, packages: Sequence[str] = ()) -> None:
    """Run the typer application `app` of a module.

    Args: as `load`.

    Raises:
        SystemExit: the command is done, or a package of the extras is missing.
    """
    with _output(command):
        try:
            load(command, module, name=name, extras=extras, packages=packages).app(prog_name=command)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except OSError as error:
            if error.errno not in FULL:
                raise
            _say_full(command, error)
            sys.exit(NOT_WRITTEN)


def version_callback(command: str) -> Callable[[bool], None]:
    """What the option --version of a command does: print the version and leave."""

    def show(wanted: bool) -> None:
        if wanted:
            print(f"{command} {version('headwise')}")
            sys.exit(0)

    return show
