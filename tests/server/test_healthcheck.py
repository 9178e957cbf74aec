"""The health check that a container runs."""

import json
import os
import re
import shutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import processes
import pytest
import support
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from hostile import SECONDS, Outcome, answer, golden_set, own_channel
from http_support import running_http_server

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"


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


def image_check(http_listen: str) -> int:
    """Exit status of the image's health check, where HTTP is at that address."""
    [command] = re.findall(r"^HEALTHCHECK .*? CMD (\[.*?\])$", DOCKERFILE.read_text().replace("\\\n", ""), re.M)
    environment = {**os.environ, "HEADWISE_HTTP_LISTEN": http_listen}
    return processes.run(json.loads(command), env=environment).returncode


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, as the image has it")
def test_check_of_the_image_passes_while_models_are_served(repository: Path, tmp_path: Path) -> None:
    """Not while they are still loading, nor where nothing listens; also while every core of the engine is busy."""
    known = golden_set(repository / "digits" / "1")
    (tmp_path / "load").touch()
    with running_http_server(repository, gates=tmp_path) as http, own_channel(http.running.address) as channel:
        address = http.url.removeprefix("http://")
        assert image_check(address) == 1
        http.open("load")
        http.wait_until_ready()
        assert image_check(address) == 0
        stopped, classify = Event(), HeadwiseServiceStub(channel).Classify

        def ask() -> set[Outcome]:
            ended = set()
            while not stopped.is_set():
                ended.add(answer(classify, known, *range(8)))
            return ended

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask) for _ in range(8)]
            checks = [image_check(address) for _ in range(20)]
            stopped.set()
            assert {each for future in asking for each in future.result(SECONDS)} == {Outcome("OK")}
        assert checks == [0] * 20
    assert image_check(address) == 1
