"""What the commands `headwise`, `headwise-server` and `exporter` share as they start.

The distribution has one name and several extras, so that a command may be there without its packages. It then says in
one line what to install. An import that fails inside our own code is a fault and stays a traceback.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

OWN_PACKAGES = ("headwise", "headwise_exporter", "headwise_server")


def load(command: str, module: str, *, name: str, extras: str) -> Any:
    """The module that a command needs.

    Args:
        command: as the user calls it.
        name: what to install, for the message: "the server".
        extras: of the distribution, as pip takes them: "server,cpu".

    Raises:
        SystemExit: a package of the extras is missing; the message says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", *OWN_PACKAGES):
            raise
        message = f"the package {package} is missing; install {name} with: pip install 'headwise[{extras}]'"
        sys.exit(f"{command}: {message}")


def version_callback(command: str) -> Callable[[bool], None]:
    """What the option --version of a command does: print the version and leave."""

    def show(wanted: bool) -> None:
        if wanted:
            print(f"{command} {version('headwise')}")
            sys.exit(0)

    return show
