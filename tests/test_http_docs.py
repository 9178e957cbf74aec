"""The curl commands of the documentation, against a server that runs."""

import re
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


@pytest.fixture(scope="module")
def http(repository: Path) -> Iterator[HttpServer]:
    """A server with a bundle."""
    with running_http_server(repository) as server:
        server.wait_until_ready()
        yield server


@pytest.mark.parametrize("command", COMMANDS)
def test_curl_command_is_answered(command: str, http: HttpServer, tmp_path: Path) -> None:
    """With 200, in a folder with a picture."""
    (tmp_path / "digit.png").write_bytes(PNG)
    assert "http://localhost:8080" in command
    script = command.replace("http://localhost:8080", http.url).replace("curl", "curl --silent --show-error --fail")
    completed = processes.run(["bash", "-o", "pipefail", "-c", script], cwd=tmp_path, check=True)
    assert len(completed.stdout) > 100


def test_commands_are_seen() -> None:
    """The check above looks at something."""
    assert len(COMMANDS) >= 7
