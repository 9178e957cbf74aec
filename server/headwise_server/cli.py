"""The entry point of `headwise-server`: makes signals count before the imports that take a second.

The kernel drops SIGTERM for process 1, which a server in a container is, unless the process handles it. From here on a
signal ends the process with status 0; `app` drains instead, once it runs.
"""

import signal
import sys
import types

# Of the extra, by the names they are imported by. Runtimes are the engines' concern.
PACKAGES = (
    "cryptography",
    "grpc_channelz",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "PIL",
    "prometheus_client",
    "pydantic",
    "python_multipart",
    "rich",
    "starlette",
    "typer",
    "uvicorn",
)


def _leave(number: int, frame: types.FrameType | None) -> None:
    sys.exit(0)


def handle_signals() -> None:
    """Have them end the process, until something else is to be done."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def main() -> None:
    """Entry point."""
    handle_signals()
    from headwise.entry import start

    start("headwise-server", "headwise_server.commands", name="the server", extras="server,cpu", packages=PACKAGES)


if __name__ == "__main__":
    main()
