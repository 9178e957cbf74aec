"""The server's life, in a process of its own: bind, load, warm up, serve, drain."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
import support
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from headwise import Client, Unavailable
from headwise.bundle import FORMAT_VERSION

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "headwise.v1.HeadwiseService"
SECONDS = 30.0

# The real server, whose engine takes as long as the environment says, and whose warm-up waits for a file.
SLOW_SERVER = """
import os, pathlib, time
from headwise_server import app, cli
from headwise_server.engines.onnxruntime import OnnxRuntimeSession

run, warm_up = OnnxRuntimeSession.run, app.warm_up

def slow_run(self, images):
    time.sleep(float(os.environ["RUN_SECONDS"]))
    return run(self, images)

def gated_warm_up(*arguments):
    while not pathlib.Path(os.environ["GATE"]).exists():
        time.sleep(0.01)
    warm_up(*arguments)

OnnxRuntimeSession.run, app.warm_up = slow_run, gated_warm_up
cli.main()
"""


@contextmanager
def slow_server(
    repository: Path, gate: Path, run_seconds: float = 0.0, *arguments: str
) -> Iterator[support.ServerProcess]:
    """A server that is not ready before the file `gate` is there."""
    environment = {"GATE": str(gate), "RUN_SECONDS": str(run_seconds)}
    with support.running_server(
        repository, ["--engine", "onnxruntime", *arguments], code=SLOW_SERVER, environment=environment
    ) as running:
        yield running


def check(address: str, service: str = "") -> int:
    """What health says of a service."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS).status


def random_images(count: int) -> np.ndarray:
    """uint8 images of the bundle's size."""
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def test_reflection_lists_and_describes_the_services(server: support.ServerProcess) -> None:
    """A client without our stubs finds the services and their methods."""
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        file = database.FindFileContainingSymbol(SERVICE)
        methods = [method.name for method in file.service[0].method]
    assert methods == ["Classify", "ClassifyStream", "Explain", "GetModel", "ListModels"]


@pytest.mark.parametrize("service", ["", "digits", SERVICE])
def test_health_is_given_over_all_for_each_model_and_for_the_service(
    server: support.ServerProcess, service: str
) -> None:
    """SERVING once loaded; a name that is not served is NOT_FOUND."""
    assert check(server.address, service) == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check(server.address, "flowers")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_turns_serving_only_after_the_warm_up(repository: Path, tmp_path: Path) -> None:
    """Until every model has run: NOT_SERVING and UNAVAILABLE. Watch then sees SERVING, and NOT_SERVING at the end."""
    seen: list[int] = []

    def follow(replies: Iterable[health_pb2.HealthCheckResponse]) -> None:
        with suppress(grpc.RpcError):  # how the stream ends with the server
            seen.extend(reply.status for reply in replies)

    with slow_server(repository, tmp_path / "gate") as running, grpc.insecure_channel(running.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        watching = threading.Thread(target=follow, args=(watch,))
        with Client(running.address) as client:
            support.wait_until(lambda: running.log)  # loaded, warming up
            assert check(running.address) == NOT_SERVING
            assert client.list_models() == []
            with pytest.raises(Unavailable, match="still loading"):
                client.classify([random_images(1)[0]])
            watching.start()
            support.wait_until(lambda: seen == [NOT_SERVING])
            (tmp_path / "gate").touch()
            support.wait_until(lambda: seen == [NOT_SERVING, SERVING])
            assert len(client.classify(list(random_images(3)))) == 3
            running.process.send_signal(signal.SIGTERM)
            support.wait_until(lambda: seen == [NOT_SERVING, SERVING, NOT_SERVING])
        assert running.process.wait(10) == 0  # an open Watch does not hold it for the 20 s of grace
        watching.join(SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_loading_stops_at_once(repository: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A server that is still loading has nothing to drain: exit 0, without waiting for its models."""
    with slow_server(repository, tmp_path / "gate") as running:
        support.wait_until(lambda: running.log)
        started = time.monotonic()
        running.process.send_signal(number)
        time.sleep(0.2)
        (tmp_path / "gate").touch()  # a thread that waits here cannot be interrupted
        assert running.process.wait(SECONDS) == 0
        assert time.monotonic() - started < 10


def test_sigterm_with_200_calls_in_flight_loses_none(repository: Path, tmp_path: Path) -> None:
    """Every call that was under way is answered, right; then the server is gone, with exit status 0."""
    (tmp_path / "gate").touch()
    images = random_images(200)
    with slow_server(repository, tmp_path / "gate", 0.05, "--max-batch", "4", "--streams", "1") as running:
        with Client(running.address) as client, ThreadPoolExecutor(200) as pool:
            client.wait_until_ready(support.START_SECONDS)
            expected = np.stack([found.logits_K for found in client.classify(list(images))])
            calls = [pool.submit(client.classify, [image]) for image in images]
            support.wait_until(lambda: sum(call.done() for call in calls) >= 4)
            running.process.send_signal(signal.SIGTERM)
            answers = np.stack([call.result(SECONDS)[0].logits_K for call in calls])
        assert running.process.wait(SECONDS) == 0
    np.testing.assert_allclose(answers, expected, atol=1e-4)


def test_draining_server_that_is_over_its_grace_time_stops_all_the_same(repository: Path, tmp_path: Path) -> None:
    """Work that outlasts the grace time is cut off, and its caller told."""
    (tmp_path / "gate").touch()
    with (
        slow_server(
            repository, tmp_path / "gate", 0.4, "--max-batch", "1", "--streams", "1", "--grace-seconds", "0.2"
        ) as running,
        Client(running.address) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        client.wait_until_ready(support.START_SECONDS)
        calls = [pool.submit(client.classify, [image]) for image in random_images(8)]
        support.wait_until(lambda: any(call.done() for call in calls))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(SECONDS) == 0
        errors = [call.exception(SECONDS) for call in calls]
    assert any(errors)
    assert all(error is None or isinstance(error, Unavailable) for error in errors)


def refused(*arguments: str) -> str:
    """What a server that does not start says on stderr; one line, exit status 1, no traceback."""
    command = [
        sys.executable,
        "-c",
        "from headwise_server.cli import main; main()",
        "--listen",
        "127.0.0.1:0",
        *arguments,
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    return found.stderr


def test_port_in_use_is_refused(server: support.ServerProcess, repository: Path) -> None:
    """A second server on the same port fails loudly, and says what to do."""
    said = refused("--repository", str(repository), "--listen", server.address)
    assert f"cannot listen on {server.address}" in said
    assert "Choose another with --listen" in said


def test_empty_repository_is_refused(tmp_path: Path) -> None:
    """Nothing to serve is an error that says how to make something."""
    said = refused("--repository", str(tmp_path))
    assert "headwise-server: " in said
    assert "holds no bundle" in said
    assert "exporter build --dataset digits" in said


@pytest.mark.parametrize("damage", ["flipped byte", "missing file", "newer format"])
def test_damaged_bundle_is_refused(repository: Path, tmp_path: Path, damage: str) -> None:
    """One altered byte, one missing file or a manifest of a later release: named, and nothing is served."""
    copy = Path(shutil.copytree(repository, tmp_path / "models"))
    weights, manifest = copy / "digits" / "1" / "weights.bin", copy / "digits" / "1" / "manifest.json"
    if damage == "flipped byte":
        content = bytearray(weights.read_bytes())
        content[0] ^= 1
        weights.write_bytes(content)
    elif damage == "missing file":
        weights.unlink()
    else:
        own, later = (f'"format_version": {number}' for number in (FORMAT_VERSION, FORMAT_VERSION + 1))
        manifest.write_text(manifest.read_text().replace(own, later))
    expected = {"flipped byte": "its sha256 is not", "missing file": "weights.bin: missing", "newer format": "Upgrade"}
    assert expected[damage] in refused("--repository", str(copy))


def test_engine_that_is_not_the_one_running_is_refused(repository: Path) -> None:
    """The GPU engine on a machine without a GPU: no server, rather than one on the CPU."""
    assert "CUDAExecutionProvider" in refused("--repository", str(repository), "--engine", "cuda")


def test_server_never_imports_torch(server: support.ServerProcess) -> None:
    """Neither the package nor a server that has served has torch, or anything of the exporter, in memory."""
    imports = "import headwise_server, headwise_server.cli, headwise_server.app, sys"
    code = f"{imports}; assert not {{'torch', 'headwise_exporter'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
    with Client(server.address) as client:
        client.classify([random_images(1)[0]])
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "libtorch" not in mapped
