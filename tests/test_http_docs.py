"""The curl commands of the documentation, against a server that runs, and its walk, from a certificate to metrics."""

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from http_support import PNG, HttpServer, running_http_server

ROOT = Path(__file__).parent.parent
COMMANDS = [
    command
    for page in ("README.md", "docs/serving.md")
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    if "curl" in block
    for command in (block.splitlines() if block.startswith("curl") else [block])
]
WALK = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/serving.md").read_text("utf-8"), re.DOTALL)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs the command curl")


@pytest.fixture(scope="module")
def http(repository: Path) -> Iterator[HttpServer]:
    """A server with a bundle."""
    with running_http_server(repository) as server:
        server.wait_until_ready()
        yield server


@needs_curl
@pytest.mark.parametrize("command", COMMANDS)
def test_curl_command_is_answered(command: str, http: HttpServer, tmp_path: Path) -> None:
    """With 200, in a folder with a picture."""
    (tmp_path / "digit.png").write_bytes(PNG)
    assert "http://localhost:8080" in command
    script = command.replace("http://localhost:8080", http.url).replace("curl", "curl --silent --show-error --fail")
    completed = processes.run(["bash", "-o", "pipefail", "-c", script], cwd=tmp_path, check=True)
    assert len(completed.stdout) > 100


@needs_curl
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
def test_walk_ends_in_metrics_of_both_versions(repository: Path, tmp_path: Path) -> None:
    """As it is written, but for the ports."""
    shutil.copytree(repository, tmp_path / "models")
    (tmp_path / "digit.png").write_bytes(PNG)
    script = "".join(WALK)
    with socket.socket() as grpc_socket, socket.socket() as http_socket:
        for free, port in ((grpc_socket, "50051"), (http_socket, "8080")):
            free.bind(("localhost", 0))
            assert f"localhost:{port}" in script
            script = script.replace(f"localhost:{port}", f"localhost:{free.getsockname()[1]}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    walked = processes.run(["bash", "-e", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    assert "They add up within" in " ".join(walked.stdout.split())
    assert 'headwise_model_state{model="digits",state="READY",version="1"} 1.0' in walked.stdout
    assert 'headwise_model_state{model="digits",state="UNAVAILABLE",version="2"} 1.0' in walked.stdout


def test_commands_are_seen() -> None:
    """The check above looks at something."""
    assert len(COMMANDS) >= 7
