"""Several workers on one port: real processes, which share the work, are seen as one server, and may end one by one."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import processes
import pytest
import requests
import support
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headwise import Client
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.open_inference.service_pb2_grpc import GRPCInferenceServiceStub
from hostile import SECONDS, Known, Outcome, answer, golden_set, own_channel, ready
from prometheus_client.parser import text_string_to_metric_families

ENGINE = ("--engine", "onnxruntime")
CONNECTIONS = 32  # that all go to one of two workers in 2^31 runs
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def known(bundle: Path) -> Known:
    """Images with their logits."""
    return golden_set(bundle)


def port_of(server: support.ServerProcess) -> str:
    """Where it answers HTTP, once it listens there."""
    assert server.process.stdout is not None
    return server.process.stdout.readline().removeprefix("listening on ").strip()


def children_of(pid: int) -> list[int]:
    """Process ids."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def workers_of(server: support.ServerProcess) -> list[int]:
    """Their process ids."""
    return children_of(server.process.pid)


def health_of(channel: grpc.Channel) -> int:
    """What the worker of this connection says of the server."""
    return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status)


@pytest.fixture
def server(repository: Path) -> Iterator[support.ServerProcess]:
    """Two workers that serve."""
    arguments = (*ENGINE, "--workers", "2", "--repository-control", "--http-listen", "127.0.0.1:0")
    with support.running_server(repository, arguments) as running:
        ready(running)
        yield running


@pytest.fixture
def channels(server: support.ServerProcess) -> Iterator[list[grpc.Channel]]:
    """Connections to the server, of which each worker has some; all workers serve."""
    with ExitStack() as stack:
        opened = [stack.enter_context(own_channel(server.address)) for _ in range(CONNECTIONS)]
        support.wait_until(lambda: {health_of(channel) for channel in opened} == {SERVING})
        yield opened


def test_all_workers_answer_and_are_measured_as_one(
    server: support.ServerProcess, channels: list[grpc.Channel], known: Known
) -> None:
    """The metrics of both are in every exposition, whichever worker is asked."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        calls = [pool.submit(answer, HeadwiseServiceStub(channel).Classify, known, 3, 5) for channel in channels]
        assert {call.result(SECONDS) for call in calls} == {Outcome("OK")}
    counted = GRPCInferenceServiceStub(channels[0]).ModelStatistics(
        oip.ModelStatisticsRequest(name="digits"), timeout=SECONDS
    )
    assert [model.inference_count for model in counted.model_stats] == [2 * CONNECTIONS]
    url = port_of(server)
    for _ in range(4):
        text = requests.get(f"{url}/metrics", timeout=SECONDS).text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        counts = {
            sample.labels["worker"]: sample.value
            for sample in families["headwise_requests"].samples
            if sample.labels.get("method") == "Classify"
        }
        assert counts.keys() == {"0", "1"}
        assert sum(counts.values()) == CONNECTIONS
        limits_bytes = [sample.value for sample in families["headwise_memory_limit_bytes"].samples]
        assert limits_bytes == [384 * 2**20] * 2  # half of it, but for the quarter of messages on their way


def test_worker_that_dies_is_replaced_and_the_others_answer(
    server: support.ServerProcess, channels: list[grpc.Channel], known: Known
) -> None:
    """Calls of its connections fail at once with UNAVAILABLE until they are made anew, and no reply is wrong."""
    before = workers_of(server)
    outcomes: dict[grpc.Channel, list[Outcome]] = {channel: [] for channel in channels}
    ended = threading.Event()

    def call(channel: grpc.Channel) -> None:
        classify = HeadwiseServiceStub(channel).Classify
        while not ended.wait(0.01):
            outcomes[channel].append(answer(classify, known, 1, seconds=30))

    def all_have_answers() -> bool:
        reached = {channel: len(ended_calls) for channel, ended_calls in outcomes.items()}
        support.wait_until(lambda: all(len(outcomes[channel]) > count + 1 for channel, count in reached.items()))
        return {ended_calls[-1] for ended_calls in outcomes.values()} == {Outcome("OK")}

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        callers = [pool.submit(call, channel) for channel in channels]
        try:
            support.wait_until(all_have_answers)
            os.kill(before[0], signal.SIGKILL)
            support.wait_until(lambda: sum("serving digits" in line for line in server.log) == 3)
            support.wait_until(all_have_answers)
        finally:
            ended.set()
        for caller in callers:
            caller.result(SECONDS)
    codes = [{outcome.code for outcome in ended_calls} for ended_calls in outcomes.values()]
    assert {"OK"} in codes
    assert {"OK", "UNAVAILABLE"} in codes
    assert set.union(*codes) == {"OK", "UNAVAILABLE"}
    assert any("worker 0 ended with status -9; another starts" in line for line in server.log)
    assert before[1] in workers_of(server)


def test_model_is_unloaded_and_loaded_in_all_workers(
    server: support.ServerProcess, channels: list[grpc.Channel], known: Known
) -> None:
    """Whichever worker is asked to; one that takes another's place leaves it unloaded."""
    control = GRPCInferenceServiceStub(channels[0])
    control.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="digits"), timeout=SECONDS)
    classify = [HeadwiseServiceStub(channel).Classify for channel in channels]
    assert "OK" not in {answer(call, known, 1).code for call in classify}
    os.kill(workers_of(server)[0], signal.SIGKILL)
    support.wait_until(lambda: any("serving nothing yet" in line for line in server.log))
    with own_channel(server.address) as channel:
        control = GRPCInferenceServiceStub(channel)
        control.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="digits"), timeout=SECONDS)
    with ExitStack() as stack:
        opened = [stack.enter_context(own_channel(server.address)) for _ in range(CONNECTIONS)]
        assert {answer(HeadwiseServiceStub(channel).Classify, known, 1) for channel in opened} == {Outcome("OK")}


def test_server_with_a_worker_that_hangs_is_not_serving(
    server: support.ServerProcess, channels: list[grpc.Channel]
) -> None:
    """A client's connection may be that worker's; SERVING again once it goes on."""
    hanging = workers_of(server)[1]
    os.kill(hanging, signal.SIGSTOP)
    try:

        def says_not_serving(channel: grpc.Channel) -> bool:
            try:
                stub = health_pb2_grpc.HealthStub(channel)
                return bool(stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0).status == NOT_SERVING)
            except grpc.RpcError:  # it is the one that hangs
                return False

        support.wait_until(lambda: any(says_not_serving(channel) for channel in channels[:8]))
    finally:
        os.kill(hanging, signal.SIGCONT)
    support.wait_until(lambda: {health_of(channel) for channel in channels} == {SERVING})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_all_workers(
    server: support.ServerProcess, channels: list[grpc.Channel], known: Known, number: signal.Signals
) -> None:
    """What is in flight is answered, or refused with UNAVAILABLE; status 0, and nothing is left."""
    workers, outcomes = workers_of(server), list[Outcome]()

    def call(channel: grpc.Channel) -> None:
        classify = HeadwiseServiceStub(channel).Classify
        while not outcomes or outcomes[-1].code == "OK":
            outcomes.append(answer(classify, known, 1, 2, seconds=30))

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        callers = [pool.submit(call, channel) for channel in channels]
        support.wait_until(lambda: len(outcomes) > 2 * CONNECTIONS)
        assert server.stop(number) == 0
        for caller in callers:
            caller.result(SECONDS)
    assert {outcome.code for outcome in outcomes} == {"OK", "UNAVAILABLE"}
    assert all(processes.is_gone(worker) for worker in workers)


def test_workers_drain_when_their_supervisor_is_killed(server: support.ServerProcess) -> None:
    """No process is left behind on the port."""
    workers = workers_of(server)
    server.stop(signal.SIGKILL)
    support.wait_until(lambda: all(processes.is_gone(worker) for worker in workers))


def test_port_belongs_to_one_server(server: support.ServerProcess, repository: Path) -> None:
    """Another fails with one line, whether it has workers or not."""
    command = support.server_command(repository)
    for workers in ("1", "2"):
        second = processes.run([*command, *ENGINE, "--listen", server.address, "--workers", workers])
        assert second.returncode == 1
        assert f"cannot listen on {server.address}" in second.stderr
        assert "Traceback" not in second.stderr


def test_workers_that_cannot_serve_say_so_once(tmp_path: Path) -> None:
    """The server ends with status 1 and the same message as without workers."""
    (tmp_path / "digits" / "1").mkdir(parents=True)
    command = [*support.server_command(tmp_path), *ENGINE, "--listen", "127.0.0.1:0"]
    lone, several = processes.run(command), processes.run([*command, "--workers", "2"])
    assert (lone.returncode, several.returncode) == (1, 1)
    assert several.stderr.splitlines()[-1] == lone.stderr.splitlines()[-1]
    assert several.stderr.count("headwise-server: ") == 1
    assert "Traceback" not in several.stderr


def test_signal_while_models_load_ends_the_server(repository: Path) -> None:
    """At any moment of its start."""
    with support.running_server(repository, (*ENGINE, "--workers", "2")) as starting:
        assert starting.stop() == 0


def test_worker_that_dies_before_it_listens_is_replaced(repository: Path) -> None:
    """The others wait for it, and the server begins."""
    command = [*support.server_command(repository), *ENGINE, "--listen", "127.0.0.1:0", "--workers", "2"]
    with processes.start(command, stdout=processes.PIPE, stderr=processes.PIPE) as process:
        support.wait_until(lambda: len(children_of(process.pid)) == 2)
        os.kill(children_of(process.pid)[0], signal.SIGKILL)
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("listening on ").strip()
        with Client(address, timeout_seconds=SECONDS) as client:
            client.wait_until_ready(SECONDS)
        process.terminate()
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "ended with status -9; another starts in 1 s" in errors


def test_folder_whose_path_is_too_long_for_sockets_is_refused(repository: Path, tmp_path: Path) -> None:
    """With what to do about it."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    command = [*support.server_command(repository), *ENGINE, "--listen", "127.0.0.1:0", "--workers", "2"]
    refused = processes.run(command, env={**os.environ, "TMPDIR": str(folder)})
    assert refused.returncode == 1
    assert "Set TMPDIR to a folder with a shorter path" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(folder.iterdir())
