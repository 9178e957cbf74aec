"""The server's life, in a process of its own: bind, load, warm up, serve, drain."""

import queue
import shutil
import signal
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import processes
import pytest
import support
from gated import Gates, accepted, gated_server, wait_until_draining
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from headwise import Client, Unavailable
from headwise.bundle import FORMAT_VERSION
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "headwise.v1.HeadwiseService"
SECONDS = support.LONG_SECONDS
GRACE = ("--grace-seconds", str(10 * SECONDS))  # a server that waits for the end of it fails its test

# Asks for a reply that is far larger than what it takes in without reading.
SLOW_CLIENT = """
import sys, grpc
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub

window = [("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)]
image = pb.Image(tensor=pb.ImageTensor(height=8, width=8, channels=1, data=bytes(64)))
with grpc.insecure_channel(sys.argv[1], options=window) as channel:
    request = pb.ExplainRequest(images=[image] * 1000, top_k=10)
    print(len(HeadwiseServiceStub(channel).Explain(request).explanations))
"""


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    """The gates `load` and `run`, the engine."""
    return Gates(tmp_path)


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


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_has_both_of_its_versions(server: support.ServerProcess, version: str) -> None:
    """Each lists and describes both; a client may know either."""
    names = {f"grpc.reflection.{name}.ServerReflection" for name in ("v1", "v1alpha")}
    with grpc.insecure_channel(server.address) as channel:
        reflect = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in sorted(names)),
        ]
        listed, *described = reflect(iter(questions), timeout=SECONDS)
    assert names <= {service.name for service in listed.list_services_response.service}
    for name, reply in zip(sorted(names), described, strict=True):
        [content] = reply.file_descriptor_response.file_descriptor_proto
        file = FileDescriptorProto.FromString(content)
        assert f"{file.package}.{file.service[0].name}" == name
        assert file.service[0].method[0].input_type == f".{file.package}.ServerReflectionRequest"


@pytest.mark.parametrize("service", ["", "digits", SERVICE])
def test_health_is_given_over_all_for_each_model_and_for_the_service(
    server: support.ServerProcess, service: str
) -> None:
    """SERVING once loaded; a name that is not served is NOT_FOUND."""
    assert check(server.address, service) == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check(server.address, "flowers")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_turns_serving_only_after_loading(repository: Path, gates: Gates) -> None:
    """Until every model has run: NOT_SERVING and UNAVAILABLE. Watch then sees SERVING, and NOT_SERVING at the end."""
    seen: list[int] = []

    def follow(replies: Iterable[health_pb2.HealthCheckResponse]) -> None:
        with suppress(grpc.RpcError):  # how the stream ends with the server
            seen.extend(reply.status for reply in replies)

    gates.close("load")
    with gated_server(repository, gates, *GRACE) as running, grpc.insecure_channel(running.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        watching = threading.Thread(target=follow, args=(watch,))
        with Client(running.address, timeout_seconds=SECONDS) as client:
            support.wait_until(lambda: running.log)  # loading
            assert check(running.address) == NOT_SERVING
            assert client.list_models() == []
            with pytest.raises(Unavailable, match="still loading"):
                client.classify([random_images(1)[0]])
            watching.start()
            support.wait_until(lambda: seen == [NOT_SERVING])
            gates.open("load")
            support.wait_until(lambda: seen == [NOT_SERVING, SERVING])
            assert len(client.classify(list(random_images(3)))) == 3
            running.process.send_signal(signal.SIGTERM)
            support.wait_until(lambda: seen == [NOT_SERVING, SERVING, NOT_SERVING])
        assert running.process.wait(SECONDS) == 0  # an open Watch does not hold it for the grace time
        watching.join(SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_loading_stops_without_the_models(repository: Path, gates: Gates, number: signal.Signals) -> None:
    """A server that is still loading has nothing to drain: it closes at once, serves nothing, and exits with 0."""
    gates.close("load")
    with gated_server(repository, gates, *GRACE) as running:
        support.wait_until(lambda: running.log)
        running.process.send_signal(number)
        wait_until_draining(running)
        gates.open("load")  # a thread that waits here cannot be interrupted
        assert running.process.wait(SECONDS) == 0
    assert not any("serving" in line for line in running.log)


WINDOWS_LOOP = """
import asyncio

def add_signal_handler(*arguments):
    raise NotImplementedError

asyncio.SelectorEventLoop.add_signal_handler = add_signal_handler
from headwise_server.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_where_the_loop_takes_none(repository: Path, number: signal.Signals) -> None:
    """As on Windows, whose event loop has no signal handlers."""
    with support.running_server(repository, GRACE, code=WINDOWS_LOOP) as running:
        with Client(running.address, timeout_seconds=SECONDS) as client:
            client.wait_until_ready(SECONDS)
            assert len(client.classify(list(random_images(3)))) == 3
        assert running.stop(number) == 0
    assert any("draining" in line for line in running.log)


def test_sigterm_with_200_calls_in_flight_loses_none(repository: Path, gates: Gates) -> None:
    """Every call that was accepted is answered, right; then the server is gone, with exit status 0."""
    images = random_images(200)
    with gated_server(repository, gates, "--max-batch", "4", "--streams", "1", *GRACE) as running:
        with Client(running.address, timeout_seconds=SECONDS) as client, ThreadPoolExecutor(200) as pool:
            client.wait_until_ready(SECONDS)
            expected = np.stack([result.logits_K for result in client.classify(list(images))])
            before = accepted(running)
            gates.close("run")
            calls = [pool.submit(client.classify, [image]) for image in images]
            support.wait_until(lambda: accepted(running) == before + len(images))
            running.process.send_signal(signal.SIGTERM)
            wait_until_draining(running)
            gates.open("run")
            answers = np.stack([call.result(SECONDS)[0].logits_K for call in calls])
        assert running.process.wait(SECONDS) == 0
    np.testing.assert_allclose(answers, expected, atol=1e-4)


def test_reply_to_a_client_that_reads_late_is_sent_before_the_server_stops(repository: Path, gates: Gates) -> None:
    """The client stands still while its reply is sent: the server waits for it, and the whole reply arrives."""
    with gated_server(repository, gates, *GRACE) as running:
        with Client(running.address, timeout_seconds=SECONDS) as client:
            client.wait_until_ready(SECONDS)
        gates.close("run")
        command = [sys.executable, "-c", SLOW_CLIENT, running.address]
        with processes.start(command, stdout=processes.PIPE) as reader:
            support.wait_until(lambda: accepted(running))
            reader.send_signal(signal.SIGSTOP)
            running.process.send_signal(signal.SIGTERM)
            gates.open("run")
            with suppress(processes.TimeoutExpired):  # time enough for a server that would not wait
                running.process.wait(5)
            reader.send_signal(signal.SIGCONT)
            assert reader.communicate(timeout=SECONDS)[0] == "1000\n"
        assert running.process.wait(SECONDS) == 0


def test_sigterm_ends_a_stream_once_its_requests_are_answered(repository: Path, gates: Gates) -> None:
    """What came over the stream is answered, in order; then it ends with UNAVAILABLE, although its client sends on."""
    requests: queue.SimpleQueue[pb.ClassifyStreamRequest | None] = queue.SimpleQueue()
    for number, image in enumerate(random_images(5)):
        tensor = pb.ImageTensor(height=8, width=8, channels=1, data=image.tobytes())
        request = pb.ClassifyRequest(images=[pb.Image(tensor=tensor)])
        requests.put(pb.ClassifyStreamRequest(request_id=str(number), request=request))
    with gated_server(repository, gates, *GRACE) as running, grpc.insecure_channel(running.address) as channel:
        with Client(running.address, timeout_seconds=SECONDS) as client:
            client.wait_until_ready(SECONDS)
        gates.close("run")
        replies = HeadwiseServiceStub(channel).ClassifyStream(iter(requests.get, None), timeout=SECONDS)
        support.wait_until(lambda: accepted(running) == 5)
        running.process.send_signal(signal.SIGTERM)
        wait_until_draining(running)
        gates.open("run")
        for number in range(5):
            reply = next(replies)
            assert (reply.request_id, reply.WhichOneof("result")) == (str(number), "response")
        with pytest.raises(grpc.RpcError, match="shutting down; send the request to another") as caught:
            next(replies)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert running.process.wait(SECONDS) == 0
        requests.put(None)


def test_stream_without_requests_does_not_hold_the_server_up(repository: Path, gates: Gates) -> None:
    """A ClassifyStream that only stands open ends with UNAVAILABLE when the server drains."""
    requests: queue.SimpleQueue[pb.ClassifyStreamRequest | None] = queue.SimpleQueue()
    with gated_server(repository, gates, *GRACE) as running, grpc.insecure_channel(running.address) as channel:
        with Client(running.address, timeout_seconds=SECONDS) as client:
            client.wait_until_ready(SECONDS)
        replies = HeadwiseServiceStub(channel).ClassifyStream(iter(requests.get, None), timeout=SECONDS)
        requests.put(pb.ClassifyStreamRequest())  # its answer shows that the stream is open; it has no image
        assert next(replies).WhichOneof("result") == "error"
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert running.process.wait(SECONDS) == 0
        requests.put(None)


def test_draining_server_that_is_over_its_grace_time_stops_all_the_same(repository: Path, gates: Gates) -> None:
    """Work that outlasts the grace time is cut off, and its callers get UNAVAILABLE."""
    arguments = ("--max-batch", "1", "--streams", "1", "--grace-seconds", "0.2")
    with (
        gated_server(repository, gates, *arguments) as running,
        Client(running.address, timeout_seconds=SECONDS) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        client.wait_until_ready(SECONDS)
        gates.close("run")
        calls = [pool.submit(client.classify, [image]) for image in random_images(8)]
        support.wait_until(lambda: accepted(running) == 8)
        running.process.send_signal(signal.SIGTERM)
        errors = [call.exception(SECONDS) for call in calls]
        gates.open("run")  # a thread that waits here cannot be interrupted
        assert running.process.wait(SECONDS) == 0
    assert all(isinstance(error, Unavailable) for error in errors)


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
    process = processes.run(command)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    return process.stderr


def test_port_in_use_is_refused(server: support.ServerProcess, repository: Path) -> None:
    """A second server on the same port fails loudly, and says what to do."""
    message = refused("--repository", str(repository), "--listen", server.address)
    assert f"cannot listen on {server.address}" in message
    assert "Choose another with --listen" in message


def test_empty_repository_is_refused(tmp_path: Path) -> None:
    """Nothing to serve is an error that says how to make something."""
    message = refused("--repository", str(tmp_path))
    assert "headwise-server: " in message
    assert "holds no bundle" in message
    assert "exporter build --dataset digits" in message


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
    processes.run([sys.executable, "-c", code], check=True)
    with Client(server.address, timeout_seconds=SECONDS) as client:
        client.classify([random_images(1)[0]])
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "libtorch" not in mapped
