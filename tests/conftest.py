"""Fixtures that take seconds to make are made once, whatever the number of parallel workers."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import processes
import pytest
import support
import torch
from filelock import FileLock
from headwise import Client

processes.watch()  # what any test starts ends with this process
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and what they start
torch.set_num_threads(1)
# A slow machine is no failure.
hypothesis.settings.register_profile("headwise", deadline=None)
hypothesis.settings.load_profile("headwise")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name of a test with bytes: its content may hold the time, and parallel workers must give the same names."""
    return argname if isinstance(val, bytes) else None


def _once(tmp_path_factory: pytest.TempPathFactory, worker_id: str, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first worker to need it fills."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_name(f"{name}.partial")
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Folder with `run/`, a finished run, and `models/`, a repository with its bundle `digits/1`."""
    return _once(
        tmp_path_factory, worker_id, "built", lambda folder: support.make_bundle(folder / "run", folder / "models")
    )


@pytest.fixture(scope="session")
def repository(built: Path) -> Path:
    """A repository with one bundle, not to be written to."""
    return built / "models"


@pytest.fixture(scope="session")
def bundle(repository: Path) -> Path:
    """A bundle, not to be written to."""
    return repository / "digits" / "1"


@pytest.fixture(scope="session")
def int8_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The same bundle with an int8 graph for each engine, in a repository of its own; not to be written to."""
    folder = _once(tmp_path_factory, worker_id, "int8", lambda folder: support.add_variants(bundle, folder))
    return folder / "digits" / "1"


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[support.ServerProcess]:
    """A server that serves the bundle on ONNX Runtime in float32, for tests that leave it running."""
    with support.running_server(repository, ["--engine", "onnxruntime", "--max-message-mib", "4"]) as running:
        with Client(running.address, timeout_seconds=support.LONG_SECONDS) as client:
            client.wait_until_ready(support.LONG_SECONDS)
        yield running


@pytest.fixture
def client(server: support.ServerProcess) -> Iterator[Client]:
    """A client of `server`."""
    with Client(server.address, timeout_seconds=support.LONG_SECONDS) as connected:
        yield connected
