"""A real server whose loading and engine wait at gates that the test opens and closes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import support

# Loading, decoding and the engine wait while a file of that name is there; what is accepted for the engine is logged.
GATED_SERVER = """
import os, pathlib, time
from headwise_server import cli, inference, repository
from headwise_server.batching import Batcher
from headwise_server.engines.onnxruntime import OnnxRuntimeSession

accept, run, load = Batcher.run, OnnxRuntimeSession.run, repository.load
decode, read_header, decoded = inference._decode, inference.decoding_bytes, inference.decoded

def log(line):
    os.write(2, f"{line}\\n".encode())  # in one piece, though several threads write

def is_closed(gate):
    return pathlib.Path(os.environ["GATES"], gate).exists()

def wait_at(gate):
    while is_closed(gate):
        time.sleep(0.01)

async def logged_accept(self, *arguments, **options):
    log("accepted")
    return await accept(self, *arguments, **options)

def gated_run(self, images, **others):
    wait_at("run")
    if is_closed("whole engine"):
        raise RuntimeError("the device has fallen off the bus")
    return run(self, images, **others)

def gated_load(*arguments):
    log("loading")
    wait_at("load")
    return load(*arguments)

async def logged_decode(*arguments):
    log("files")
    await decode(*arguments)

def gated_read_header(*arguments):
    wait_at("header")
    return read_header(*arguments)

def gated_decoded(*arguments):
    log("decoding")
    wait_at("decode")
    return decoded(*arguments)

Batcher.run, OnnxRuntimeSession.run, repository.load = logged_accept, gated_run, gated_load
inference._decode, inference.decoding_bytes, inference.decoded = logged_decode, gated_read_header, gated_decoded
cli.main()
"""


@dataclass
class Gates:
    """The gates of a server, all open at first.

    `load`, `header` and `decode` of images, `run`, where the engine waits, and `whole engine`, where it raises.
    """

    folder: Path

    def close(self, gate: str) -> None:
        """Have the server wait here."""
        (self.folder / gate).touch()

    def open(self, gate: str) -> None:
        """Let it go on."""
        (self.folder / gate).unlink()


@contextmanager
def gated_server(repository: Path, gates: Gates, *arguments: str) -> Iterator[support.ServerProcess]:
    """A server that stands where a gate is closed."""
    command, environment = ["--engine", "onnxruntime", *arguments], {"GATES": str(gates.folder)}
    with support.running_server(repository, command, code=GATED_SERVER, environment=environment) as running:
        yield running


def accepted(running: support.ServerProcess) -> int:
    """Requests that the server has accepted for its engine so far."""
    return running.log.count("accepted\n")


def wait_until_draining(running: support.ServerProcess) -> None:
    """Wait until a server refuses new calls."""
    support.wait_until(lambda: any("draining" in line for line in running.log))
