"""The health check that a container runs."""

import socket
import sys

import processes
import support


def status(*arguments: str) -> int:
    """Exit status of the module, run as a container runs it."""
    command = [sys.executable, "-m", "headwise_server.healthcheck", *arguments]
    return processes.run(command).returncode


def test_serving_server_is_healthy(server: support.ServerProcess) -> None:
    """Over all, and for a model that it serves."""
    assert status(server.address) == 0
    assert status(server.address, "digits") == 0


def test_unknown_model_is_not_healthy(server: support.ServerProcess) -> None:
    """A name that is not served."""
    assert status(server.address, "flowers") == 1


def test_no_server_is_not_healthy() -> None:
    """Nothing listens there."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert status(f"127.0.0.1:{unused.getsockname()[1]}") == 1
