"""Bundles that come, go and break while a server in a process of its own is asked: no answer is wrong, none is lost."""

import os
import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
import support
from clients_at_work import IMAGES_NYXC, SECONDS, TOLERANCE, expected_logits, load
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headwise import Client, NotFound, Unavailable
from headwise.bundle import read_manifest

DAMAGED = ["manifest.json", "classify.onnx", "weights.bin", "golden.npz"]
# The limit of the slowdown is beside the point here.
ARGUMENTS = ["--engine", "onnxruntime", "--reload-seconds", "0.05", "--max-slowdown", "0"]


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository to change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


def versions(client: Client) -> list[int]:
    """What the server serves."""
    return [int(model.version) for model in client.list_models()]


def test_twenty_swaps_under_load_lose_no_answer_and_give_none_of_another_version(copy: Path, tmp_path: Path) -> None:
    """Version after version, of which the newest two are kept; damaged ones beside them are never served."""
    staged = tmp_path / "staged"
    source = copy / "digits" / "1"
    expected = {"1": expected_logits(source)}
    for version in range(2, 22):
        scale = (1 + version) * (-1) ** version
        logits = expected_logits(support.copy_bundle(source, staged, "digits", version, scale))
        assert all(np.abs(logits - other).max(1).min() > 3 * TOLERANCE for other in expected.values())
        expected[str(version)] = logits
    with (
        support.running_server(copy, [*ARGUMENTS, "--keep-versions", "2"]) as running,
        Client(running.address, timeout_seconds=SECONDS) as client,
    ):
        client.wait_until_ready(SECONDS)
        with load(running.address, expected) as clients:
            for version in range(2, 22):
                damaged = copy / "digits" / str(1000 + version)
                shutil.copytree(source, damaged)
                (damaged / DAMAGED[version % len(DAMAGED)]).write_bytes(b"x")
                (staged / "digits" / str(version)).rename(copy / "digits" / str(version))
                support.wait_until(lambda version=version: versions(client) == [version - 1, version])
                support.wait_until(lambda version=version: clients.answers[str(version)])
                shutil.rmtree(damaged)
        assert running.stop() == 0
    assert set(clients.answers) == set(expected)
    assert not any("Traceback" in line for line in running.log)


def test_roll_back_under_load(copy: Path) -> None:
    """The newest version's folder is removed, and comes again, several times."""
    folder = support.copy_bundle(copy / "digits" / "1", copy, "digits", 2, scale=1.5)
    expected = {str(version): expected_logits(copy / "digits" / str(version)) for version in (1, 2)}
    with (
        support.running_server(copy, ARGUMENTS) as running,
        Client(running.address, timeout_seconds=SECONDS) as client,
    ):
        client.wait_until_ready(SECONDS)
        with load(running.address, expected) as clients:
            for _ in range(3):
                folder.rename(copy / "digits" / ".2.removed")
                support.wait_until(lambda: versions(client) == [1])
                (copy / "digits" / ".2.removed").rename(folder)
                support.wait_until(lambda: versions(client) == [1, 2])
        assert running.stop() == 0
    assert set(clients.answers) == {"1", "2"}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_files_damaged_in_place_under_load(copy: Path, engine: str) -> None:
    """Weights are overwritten and cut off while the server looks at them: what is in memory is served on."""
    folder = copy / "digits" / "1"
    weights = folder / "weights.bin"
    content, expected = weights.read_bytes(), {"1": expected_logits(folder)}
    arguments = [*ARGUMENTS, "--engine", engine, "--precision", "f32"]
    with (
        support.running_server(copy, arguments) as running,
        Client(running.address, timeout_seconds=SECONDS) as client,
    ):
        client.wait_until_ready(SECONDS)
        with load(running.address, expected) as clients:
            for number in range(3):
                before = sum(clients.answers.values())
                with weights.open("r+b") as stream:
                    stream.write(np.random.default_rng(number).bytes(len(content)))
                support.wait_until(lambda number=number: sum("served on" in line for line in running.log) > 2 * number)
                os.truncate(weights, 100)
                support.wait_until(
                    lambda number=number: sum("served on" in line for line in running.log) > 2 * number + 1
                )
                weights.write_bytes(content)
                loads = sum("loaded digits version 1" in line for line in running.log)
                support.wait_until(lambda n=loads: sum("loaded digits version 1" in line for line in running.log) > n)
                assert sum(clients.answers.values()) > before
        assert running.stop() == 0


def test_same_version_exported_again_under_load(copy: Path, tmp_path: Path) -> None:
    """The folder is replaced by another of the same number: an answer has the logits of the sha256 that it names."""
    again = support.copy_bundle(copy / "digits" / "1", tmp_path / "staged", "digits", 2, scale=1.5)
    manifest = read_manifest(again)
    manifest.version = "1"
    support.rehash(again, manifest)
    folder, aside = copy / "digits" / "1", copy / "digits" / ".aside"
    with (
        support.running_server(copy, ARGUMENTS) as running,
        Client(running.address, timeout_seconds=SECONDS) as client,
    ):
        client.wait_until_ready(SECONDS)
        [before] = client.classify([IMAGES_NYXC[0]])
        folder.rename(aside)
        again.rename(folder)
        support.wait_until(lambda: client.list_models()[0].sha256 != before.model.sha256)
        [after] = client.classify([IMAGES_NYXC[0]])
        np.testing.assert_allclose(after.logits_K, expected_logits(folder)[0], atol=TOLERANCE)
        np.testing.assert_allclose(before.logits_K, expected_logits(aside)[0], atol=TOLERANCE)
        assert after.model.sha256 != before.model.sha256


def test_health_and_replies_follow_models_that_come_and_go(copy: Path) -> None:
    """A server may start with nothing that it can serve; each model has its own status, and "" that of any."""
    bundle = copy.parent / "digits"
    shutil.move(copy / "digits", bundle)
    with (
        support.running_server(copy, ARGUMENTS) as running,
        Client(running.address, timeout_seconds=SECONDS) as client,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        def status(name: str) -> str:
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS)
            except grpc.RpcError as error:
                return str(error.code().name)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

        support.wait_until(lambda: any("serving nothing yet" in line for line in running.log))
        assert (status(""), status("digits")) == ("NOT_SERVING", "NOT_FOUND")
        with pytest.raises(Unavailable, match="this server serves no model now"):
            client.classify([IMAGES_NYXC[0]])
        bundle.rename(copy / "digits")
        support.wait_until(lambda: (status(""), status("digits")) == ("SERVING", "SERVING"))
        assert len(client.classify([IMAGES_NYXC[0]])) == 1
        support.copy_bundle(copy / "digits" / "1", copy, "flowers")
        support.wait_until(lambda: status("flowers") == "SERVING")
        shutil.rmtree(copy / "digits")
        support.wait_until(lambda: status("digits") == "NOT_SERVING")
        assert status("") == "SERVING"
        with pytest.raises(NotFound, match="expected one of the models served \\(flowers\\)"):
            client.classify([IMAGES_NYXC[0]], model="digits")
