"""What goes wrong with the machine or the engine while clients ask all the time: no answer is wrong, lost or hangs."""

import resource
import shutil
import signal
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import processes
import pytest
import requests
import support
from clients_at_work import IMAGES_NYXC, SECONDS, expected_logits, load
from gated import Gates, gated_server
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headwise import Client, DeadlineExceeded, ServerFailure
from hostile import ready
from http_support import PNG, running_http_server

DAY = 86_400  # seconds
SERVING, NOT_SERVING = (health_pb2.HealthCheckResponse.ServingStatus.Value(name) for name in ("SERVING", "NOT_SERVING"))
RELOADS = ("--reload-seconds", "0.05", "--max-slowdown", "0")

# Between a process and its wall clock, which goes wrong by the seconds that the file CLOCK holds. Not so the clocks
# that only ever go forward: these are what a machine's do when its wall clock is set.
CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *wrong;
__attribute__((constructor)) static void open_file(void) {
    wrong = mmap(0, sizeof *wrong, PROT_READ, MAP_SHARED, open(getenv("CLOCK"), O_RDONLY), 0);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && wrong && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *wrong;
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    int failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed && wrong) now->tv_sec += *wrong;
    return failed;
}
time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository to change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@contextmanager
def health_of(address: str) -> Iterator[list[int]]:
    """Every status of the server, as it changes."""
    seen: list[int] = []
    with grpc.insecure_channel(address) as channel:
        stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())

        def follow() -> None:
            with suppress(grpc.RpcError):  # cancelled, or the server has gone
                seen.extend(reply.status for reply in stream)

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(follow)
            try:
                yield seen
            finally:
                stream.cancel()
            following.result(SECONDS)


def test_wall_clock_that_jumps_changes_nothing(copy: Path, tmp_path: Path) -> None:
    """A day forward, back, and a day further back: all is answered, nothing refused, and new versions are loaded."""
    library, clock = tmp_path / "clock.so", tmp_path / "clock"
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    (tmp_path / "clock.c").write_text(CLOCK)
    processes.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True)
    clock.write_bytes(struct.pack("l", 0))
    arguments = [*RELOADS, "--stuck-seconds", "60", "--client-calls-per-second", "100000", "--access-log"]
    environment = {"CLOCK": str(clock), "LD_PRELOAD": str(library)}
    expected = {"1": expected_logits(copy / "digits" / "1")}
    with (
        running_http_server(copy, *arguments, "--log-format", "json", environment=environment) as http,
        health_of(http.running.address) as statuses,
    ):
        http.wait_until_ready()
        support.wait_until(lambda: statuses[-1:] == [SERVING])
        before = len(statuses)
        with load(http.running.address, expected) as clients:
            clients.wait_for_more()
            for version, seconds in enumerate((DAY, 0, -DAY), start=2):
                with clock.open("r+b") as file:
                    file.write(struct.pack("l", seconds))
                staged = support.copy_bundle(copy / "digits" / "1", tmp_path / "staged", version=version, scale=version)
                expected[str(version)] = expected_logits(staged)
                staged.rename(copy / "digits" / str(version))
                support.wait_until(lambda version=version: clients.answers[str(version)] or clients.stopped.is_set())
                clients.wait_for_more()
                assert http.classify(query="?timeout_seconds=60").status_code == 200
        assert len(statuses) == before
        support.wait_until(lambda: len({line.partition("T")[0] for line in http.running.log}) >= 3)  # days of the log
        assert http.running.stop() == 0


def test_disk_that_is_full_under_load(copy: Path, tmp_path: Path) -> None:
    """A version that finds no room is not served, and is once there is room; the log says so once."""
    staged = support.copy_bundle(copy / "digits" / "1", tmp_path / "staged", version=2, scale=2)
    expected = {"1": expected_logits(copy / "digits" / "1"), "2": expected_logits(staged)}
    with support.running_server(copy, ["--engine", "onnxruntime", *RELOADS]) as running:
        ready(running)
        limits = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
        with load(running.address, expected) as clients:
            clients.wait_for_more()
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1000, limits[1]))
            staged.rename(copy / "digits" / "2")
            support.wait_until(lambda: any("cannot serve digits version 2" in line for line in running.log))
            clients.wait_for_more()
            assert set(clients.answers) == {"1"}
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, limits)
            support.wait_until(lambda: clients.answers["2"] or clients.stopped.is_set())
        assert running.stop() == 0
    assert sum("cannot serve digits version 2 for now" in line for line in running.log) == 1
    assert any("File too large" in line and "TMPDIR" in line for line in running.log)


def test_log_that_cannot_be_written_changes_no_answer(repository: Path) -> None:
    """On a full disk, though every request would have its line."""
    code = f"import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n{support.SERVER}"
    arguments = ["--engine", "onnxruntime", "--access-log"]
    with support.running_server(repository, arguments, code=code) as running:
        ready(running)
        with load(running.address, {"1": expected_logits(repository / "digits" / "1")}) as clients:
            clients.wait_for_more(200)
        assert running.stop() == 0


def test_file_descriptors_that_run_out_under_load(copy: Path, tmp_path: Path) -> None:
    """Open connections are served on, over gRPC and HTTP; new ones and new versions come once there are more."""
    staged = support.copy_bundle(copy / "digits" / "1", tmp_path / "staged", version=2, scale=2)
    expected = {"1": expected_logits(copy / "digits" / "1"), "2": expected_logits(staged)}
    with running_http_server(copy, *RELOADS) as http, requests.Session() as session:
        http.wait_until_ready()
        pid = http.running.process.pid

        def classify() -> int:
            headers = {"content-type": "image/png"}
            url = f"{http.url}/v1/models/digits:classify"
            return session.post(url, data=PNG, headers=headers, timeout=SECONDS).status_code

        with load(http.running.address, expected) as clients, ThreadPoolExecutor(1) as pool:
            assert classify() == 200
            clients.wait_for_more()
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
            began = time.monotonic()
            late = pool.submit(http.classify)  # a new connection
            staged.rename(copy / "digits" / "2")
            support.wait_until(lambda: any("Too many open files" in line for line in http.running.log))
            clients.wait_for_more()
            assert [classify() for _ in range(10)] == [200] * 10
            assert set(clients.answers) == {"1"}
            said = sum("out of system resource" in line for line in http.running.log)
            assert said < 2 + time.monotonic() - began  # once a second
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            assert late.result(SECONDS).status_code == 200
            support.wait_until(lambda: clients.answers["2"] or clients.stopped.is_set())
        assert http.running.stop() == 0


def test_engine_that_raises_now_and_then_under_load(repository: Path, tmp_path: Path) -> None:
    """Each call is answered right, or ends with what the engine said; soon all are right again."""
    gates, expected = Gates(tmp_path), {"1": expected_logits(repository / "digits" / "1")}
    with gated_server(repository, gates) as running:
        ready(running)
        with load(running.address, expected, ServerFailure) as clients:
            for _ in range(5):
                clients.wait_for_more()
                failed = clients.failures.total()
                gates.close("whole engine")
                support.wait_until(
                    lambda failed=failed: clients.failures.total() >= failed + 10 or clients.stopped.is_set()
                )
                gates.open("whole engine")
        assert all("the device has fallen off the bus" in said for said in clients.failures)
        with load(running.address, expected) as clients:
            clients.wait_for_more()
        assert running.stop() == 0


def test_engine_that_hangs_again_and_again_under_load(repository: Path, tmp_path: Path) -> None:
    """Health says so each time; whoever waits gets the right answer in the end."""
    gates, expected = Gates(tmp_path), {"1": expected_logits(repository / "digits" / "1")}
    with gated_server(repository, gates, "--stuck-seconds", "0.3") as running, health_of(running.address) as statuses:
        ready(running)
        with load(running.address, expected) as clients:
            for _ in range(3):
                clients.wait_for_more()
                support.wait_until(lambda: statuses[-1:] == [SERVING])
                gates.close("run")
                support.wait_until(lambda: statuses[-1:] == [NOT_SERVING])
                gates.open("run")
            clients.wait_for_more()
        support.wait_until(lambda: statuses[-1:] == [SERVING])
        assert running.stop() == 0


HANGING_SERVER = """
import os, pathlib, threading
from headwise_server import cli
from headwise_server.engines.onnxruntime import OnnxRuntimeSession

run = OnnxRuntimeSession.run

def run_or_hang(self, images):
    try:
        pathlib.Path(os.environ["HANG"]).unlink()
    except FileNotFoundError:
        return run(self, images)
    os.write(2, b"hangs for ever\\n")
    threading.Event().wait()

OnnxRuntimeSession.run = run_or_hang
cli.main()
"""


def test_batch_that_hangs_for_ever_takes_only_its_own_callers(repository: Path, tmp_path: Path) -> None:
    """Their deadlines end their wait. All others are answered by the other stream, and the server stops in time."""
    hang, expected = tmp_path / "hang", {"1": expected_logits(repository / "digits" / "1")}
    arguments = ["--engine", "onnxruntime", "--streams", "2", "--stuck-seconds", "0.3", "--grace-seconds", "0.5"]
    environment = {"HANG": str(hang)}
    with (
        support.running_server(repository, arguments, code=HANGING_SERVER, environment=environment) as running,
        health_of(running.address) as statuses,
        Client(running.address, timeout_seconds=2) as caller,
    ):
        ready(running)
        hang.touch()
        with pytest.raises(DeadlineExceeded):
            caller.classify([IMAGES_NYXC[0]])
        support.wait_until(lambda: "hangs for ever\n" in running.log)
        with load(running.address, expected) as clients:
            clients.wait_for_more(200)
        support.wait_until(lambda: statuses[-1:] == [NOT_SERVING])
        assert running.stop(signal.SIGTERM) == 0
