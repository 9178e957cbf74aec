"""The options with which every command of `headwise` reaches a server, and what they make."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from headwise.access import ENVIRONMENT, Access, make_access
from headwise.client import DEFAULT_TARGET, Client
from headwise.targets import check_target


def utf8(value: Any) -> Any:
    """Text as the server reads it, whatever the encoding of the terminal's locale is.

    Raises:
        BadParameter: it is no UTF-8.
    """
    if isinstance(value, list):
        return [utf8(part) for part in value]
    try:
        return value and os.fsencode(value).decode("utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"expected text in UTF-8, found {value!r}") from None


def _file(part: str, option: str, meaning: str) -> Any:
    return Annotated[Path | None, typer.Option(option, envvar=ENVIRONMENT[part], metavar="FILE", help=meaning)]


OPTIONS: dict[str, tuple[Any, object]] = {  # with their defaults
    "server": (
        Annotated[str, typer.Option("--server", envvar="HEADWISE_SERVER", callback=utf8, help="Address and port.")],
        DEFAULT_TARGET,
    ),
    "tls": (
        Annotated[bool, typer.Option("--tls", envvar=ENVIRONMENT["tls"], help="Encrypt; implied by the next.")],
        False,
    ),
    "root_certificates": (_file("root_certificates", "--root-certificates", "PEM file of who signs servers."), None),
    "certificate": (_file("certificate", "--client-certificate", "PEM file, where the server asks for one."), None),
    "key": (_file("key", "--client-key", "PEM file of its private key."), None),
    "server_name": (
        Annotated[
            str,
            typer.Option(
                "--tls-server-name",
                envvar=ENVIRONMENT["server_name"],
                help="That the server's certificate is for, where it is not the address's.",
            ),
        ],
        "",
    ),
    "token_file": (
        _file("token_file", "--token-file", f"File with a bearer token; {ENVIRONMENT['token']} goes before it."),
        None,
    ),
    "allow_plaintext_token": (
        Annotated[
            bool,
            typer.Option(
                "--allow-plaintext-token",
                envvar=ENVIRONMENT["allow_plaintext_token"],
                help="Send the token without TLS to another machine.",
            ),
        ],
        False,
    ),
}


@dataclass(frozen=True)
class Connection:
    """A server, and how to get into it."""

    target: str
    access: Access = field(default_factory=Access)

    def client(self, timeout_seconds: float) -> Client:
        """A client of the server.

        Raises:
            OSError, ValueError: as `Client`.
        """
        access = self.access
        return Client(
            self.target,
            tls=access.tls or False,
            token=access.token,
            allow_plaintext_token=access.allow_plaintext_token,
            timeout_seconds=timeout_seconds,
        )


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options in place of its parameter `connection`."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        parts = {name: given.pop(name) for name in OPTIONS}
        target = parts.pop("server")
        try:
            check_target(target)
            access = make_access(token=os.environ.get(ENVIRONMENT["token"], ""), **parts)
            access.metadata(target)
            if access.tls:
                access.tls.credentials()
        except OSError as error:
            raise typer.BadParameter(f"{error.filename} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        command(connection=Connection(target, access), **given)

    signature = inspect.signature(command, eval_str=True)
    parameters = []
    for name, parameter in signature.parameters.items():
        if name != "connection":
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        for option, (annotation, default) in OPTIONS.items():
            parameters.append(
                inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer reads it
    return run
