"""The models of a repository: one that cannot be served stops no other, and its state says why."""

import logging
import shutil
import sys
from pathlib import Path

import grpc
import processes
import pytest
import support
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headwise import Client
from headwise.bundle import BundleError
from headwise_server import loading
from headwise_server.engines import EngineError, create
from headwise_server.loading import LoadSettings
from headwise_server.repository import Repository, RepositoryError, RepositorySettings, State


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository to change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


def open_repository(folder: Path, **settings: object) -> Repository:
    """A repository on ONNX Runtime, nothing loaded yet."""

    async def publish() -> None:
        pass

    how = LoadSettings(create("onnxruntime"), "f32", max_batch=4)
    return Repository(RepositorySettings(folder, **settings), how, publish)  # type: ignore[arg-type]  # of any kind


def truncate(folder: Path) -> None:
    """Cut a bundle's weights off."""
    with (folder / "weights.bin").open("r+b") as stream:
        stream.truncate(1000)


async def test_empty_repository_says_what_to_do(tmp_path: Path) -> None:
    """No folder, and a folder without a bundle."""
    with pytest.raises(RepositoryError, match=r"expected a model repository at .*, found no such folder"):
        await open_repository(tmp_path / "none").start()
    with pytest.raises(RepositoryError, match=r"holds no bundle: .*Make one with `exporter build --dataset digits"):
        await open_repository(tmp_path).start()


async def test_bundle_that_cannot_be_served_stops_no_other(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its state and one line of the log say why; other versions and other models are served."""
    for name, version in (("digits", 2), ("flowers", 1), ("letters", 1)):
        support.copy_bundle(copy / "digits" / "1", copy, name, version)
    truncate(copy / "digits" / "2")
    truncate(copy / "flowers" / "1")
    repository = open_repository(copy)
    with caplog.at_level(logging.INFO):
        await repository.start()
    assert {name: list(versions) for name, versions in repository.models.items()} == {"digits": [1], "letters": [1]}
    states = {(state.name, state.version): state for state in repository.index()}
    assert [states[key].state for key in sorted(states)] == [
        State.READY,
        State.UNAVAILABLE,
        State.UNAVAILABLE,
        State.READY,
    ]
    for name, version in (("digits", 2), ("flowers", 1)):
        reason = states[name, version].reason
        assert f"{copy / name / str(version)} is damaged: weights.bin: expected " in reason
        assert "found 1000" in reason
        [record] = [record for record in caplog.records if reason in record.getMessage()]
        assert record.getMessage() == f"cannot serve {name} version {version}: {reason}"
        assert record.exc_info is None


@pytest.mark.parametrize("version", [2, 1])
async def test_strict_start_ends_with_the_first_bundle_that_cannot_be_served(copy: Path, version: int) -> None:
    """Whichever of two it is."""
    support.copy_bundle(copy / "digits" / "1", copy, "digits", 2)
    truncate(copy / "digits" / str(version))
    with pytest.raises(BundleError, match=f"digits/{version} is damaged: weights.bin"):
        await open_repository(copy, strict=True).start()


async def test_no_bundle_that_can_be_served_is_an_error_with_every_reason(copy: Path) -> None:
    """Of each version, in lines of their own."""
    support.copy_bundle(copy / "digits" / "1", copy, "digits", 2)
    truncate(copy / "digits" / "2")
    (copy / "digits" / "1" / "manifest.json").unlink()
    with pytest.raises(RepositoryError, match="holds no bundle that can be served") as caught:
        await open_repository(copy).start()
    lines = str(caught.value).splitlines()
    assert "1 is no bundle: it has no manifest.json" in lines[1]
    assert "2 is damaged: weights.bin" in lines[2]


async def test_other_things_in_a_repository_are_skipped(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A backup, a hidden folder and stray files: a line of the log each, and no state."""
    shutil.copytree(copy / "digits" / "1", copy / "digits" / "1.bak")
    (copy / ".trash").mkdir()
    (copy / "lost+found").mkdir(mode=0)
    (copy / "notes.txt").write_text("x")
    repository = open_repository(copy, strict=True)
    with caplog.at_level(logging.INFO):
        await repository.start()
        await repository.load("digits")
    assert [(state.name, state.version) for state in repository.index()] == [("digits", 1)]
    for name in ("digits/1.bak", ".trash", "lost+found", "notes.txt"):
        assert caplog.text.count(f"skipped: {copy / name} ") == 1


def test_server_serves_what_it_can(copy: Path) -> None:
    """A server in a process of its own: one model is served, health says which, and --strict does not start."""
    for name in ("flowers", "letters"):
        support.copy_bundle(copy / "digits" / "1", copy, name)
    truncate(copy / "flowers" / "1")
    (copy / "letters" / "1" / "manifest.json").unlink()
    (copy / "letters" / "1" / "manifest.json").mkdir()
    shutil.copytree(copy / "digits" / "1", copy / "digits" / "1.bak")
    with (
        support.running_server(copy, ["--engine", "onnxruntime"]) as running,
        Client(running.address, timeout_seconds=support.LONG_SECONDS) as client,
        grpc.insecure_channel(running.address) as channel,
    ):
        client.wait_until_ready(support.LONG_SECONDS)
        assert [model.name for model in client.list_models()] == ["digits"]
        health = health_pb2_grpc.HealthStub(channel)
        request, statuses = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        for name, status in (("", "SERVING"), ("digits", "SERVING"), ("flowers", "NOT_SERVING")):
            assert health.Check(
                request(service=name), timeout=support.LONG_SECONDS
            ).status == statuses.ServingStatus.Value(status)
        assert running.stop() == 0
    assert not any("Traceback" in line for line in running.log)
    command = [sys.executable, "-m", "headwise_server", "--repository", copy, "--listen", "127.0.0.1:0", "--strict"]
    process = processes.run(command)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith(
        f"headwise-server: {copy / 'flowers' / '1'} is damaged: weights.bin"
    )
    assert "Traceback" not in process.stderr


async def test_unforeseen_error_of_one_bundle_stops_no_other(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours is logged with its traceback, and the other versions are served."""
    support.copy_bundle(copy / "digits" / "1", copy, "digits", 2)
    repository = open_repository(copy)

    def faulty(folder: Path, settings: LoadSettings) -> object:
        if folder.name == "2":
            raise KeyError("a fault of ours")
        return loading.load(folder, settings)

    monkeypatch.setattr("headwise_server.repository.load", faulty)
    await repository.start()
    assert list(repository.models["digits"]) == [1]
    assert repository.index()[1].reason == "'a fault of ours'"
    assert any(record.exc_info for record in caplog.records)


async def test_engine_error_is_one_line_with_the_bundle(copy: Path) -> None:
    """What a runtime says over several lines is one line, under the name of the graph in the repository."""
    graph = copy / "digits" / "1" / "classify.onnx"
    graph.write_bytes(b"nothing")
    support.rehash(graph.parent, support.read_manifest(graph.parent))
    with pytest.raises(EngineError, match=f"^{graph} on onnxruntime in f32: .*cannot load {graph}") as caught:
        await open_repository(copy, strict=True).start()
    assert "\n" not in str(caught.value)
