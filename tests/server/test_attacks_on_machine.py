"""What goes wrong with the engine or the machine under a server that serves: it is said, and it serves on."""

import resource
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import support
from gated import Gates, accepted, gated_server
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from hostile import SECONDS, Known, Outcome, answer, golden_set, own_channel, ready

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Classify = Callable[..., pb.ClassifyResponse]


@pytest.fixture(scope="module")
def known(bundle: Path) -> Known:
    """Images with their logits."""
    return golden_set(bundle)


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    """Of a server's engine."""
    return Gates(tmp_path)


@pytest.fixture
def running(repository: Path, gates: Gates) -> Iterator[support.ServerProcess]:
    """A server that is soon taken for stuck, and serves."""
    with gated_server(repository, gates, "--streams", "1", "--stuck-seconds", "0.5") as started:
        ready(started)
        yield started


@pytest.fixture
def channel(running: support.ServerProcess) -> Iterator[grpc.Channel]:
    """A connection to it."""
    with own_channel(running.address) as opened:
        yield opened


def test_engine_that_hangs_is_said_by_health_until_it_goes_on(
    channel: grpc.Channel, known: Known, gates: Gates
) -> None:
    """NOT_SERVING while a batch runs for longer than --stuck-seconds; then its callers get their answers."""

    def health() -> int:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service="digits"), timeout=SECONDS).status

    support.wait_until(lambda: health() == SERVING)
    gates.close("run")
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(answer, HeadwiseServiceStub(channel).Classify, known, number) for number in range(3)]
        support.wait_until(lambda: health() == NOT_SERVING)
        gates.open("run")
        assert [call.result(SECONDS) for call in calls] == [Outcome("OK")] * 3
    support.wait_until(lambda: health() == SERVING)


def test_engine_that_fails_is_internal_for_its_batch_alone(
    running: support.ServerProcess, channel: grpc.Channel, known: Known, gates: Gates
) -> None:
    """Everybody whose images were in it is told, and the next batch is right."""
    gates.close("run")
    gates.close("whole engine")
    with ThreadPoolExecutor(5) as pool:
        before = accepted(running)
        calls = [pool.submit(answer, HeadwiseServiceStub(channel).Classify, known, number) for number in range(5)]
        support.wait_until(lambda: accepted(running) == before + 5)
        gates.open("run")
        ended = [call.result(SECONDS) for call in calls]
    assert {(item.code, item.reason) for item in ended} == {("INTERNAL", "INTERNAL")}
    assert all("the engine failed: the device has fallen off the bus" in item.message for item in ended)
    gates.open("whole engine")
    assert answer(HeadwiseServiceStub(channel).Classify, known, 5) == Outcome("OK")


def test_server_without_file_descriptors_goes_on_with_the_connections_it_has(
    running: support.ServerProcess, channel: grpc.Channel, known: Known
) -> None:
    """And takes new ones once there are descriptors again."""
    assert answer(HeadwiseServiceStub(channel).Classify, known, 0) == Outcome("OK")
    limits = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    others = [own_channel(running.address) for _ in range(20)]
    calls = [HeadwiseServiceStub(other).Classify.future(known.request(1), timeout=SECONDS) for other in others]
    assert [answer(HeadwiseServiceStub(channel).Classify, known, number) for number in range(50)] == [
        Outcome("OK")
    ] * 50
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, limits)
    for call in calls:
        call.cancel()
    for other in others:
        other.close()
    with own_channel(running.address) as late:
        assert HeadwiseServiceStub(late).Classify(known.request(2), timeout=SECONDS, wait_for_ready=True)
    assert answer(HeadwiseServiceStub(channel).Classify, known, 3) == Outcome("OK")


def test_disk_that_is_full_when_a_version_is_loaded_leaves_the_one_that_is_served(
    bundle: Path, known: Known, tmp_path: Path
) -> None:
    """The log says why, in a line."""
    copy = tmp_path / "models"
    shutil.copytree(bundle, copy / "digits" / "1")
    arguments = ("--engine", "onnxruntime", "--reload-seconds", "0.1")
    with support.running_server(copy, arguments) as running, own_channel(running.address) as channel:
        ready(running)
        _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1000, hard))
        support.copy_bundle(bundle, copy, version=2)
        support.wait_until(lambda: any("version 2" in line and "File too large" in line for line in running.log))
        reply = HeadwiseServiceStub(channel).Classify(known.request(0), timeout=SECONDS)
        assert known.is_right(reply, 0)
        assert reply.model.version == "1"
    assert not any("Traceback" in line for line in running.log)
