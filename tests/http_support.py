"""A server with its HTTP port, in a process of its own, that can be made to wait while it loads and while it runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
import support
from prometheus_client.parser import text_string_to_metric_families

SECONDS = support.LONG_SECONDS
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
PNG = support.png(PIXELS[0])

# The real server, whose loading and engine wait while a file of that name is there.
GATED_SERVER = """
import os, pathlib, time
from headwise_server import cli, repository
from headwise_server.engines.onnxruntime import OnnxRuntimeSession

run, load = OnnxRuntimeSession.run, repository.load

def wait_at(gate):
    while pathlib.Path(os.environ["GATES"], gate).exists():
        time.sleep(0.01)

def gated_run(self, images):
    wait_at("run")
    return run(self, images)

def gated_load(*arguments):
    wait_at("load")
    return load(*arguments)

OnnxRuntimeSession.run, repository.load = gated_run, gated_load
cli.main()
"""


@dataclass
class HttpServer:
    """A server, and where it answers HTTP."""

    running: support.ServerProcess
    url: str
    gates: Path | None = None
    session: requests.Session = field(default_factory=requests.Session)

    def close(self, gate: str) -> None:
        """Have the server wait at `load` or `run`."""
        assert self.gates is not None
        (self.gates / gate).touch()

    def open(self, gate: str) -> None:
        """Let it go on."""
        assert self.gates is not None
        (self.gates / gate).unlink()

    def get(self, path: str, **options: Any) -> requests.Response:
        """Ask for a path."""
        return requests.get(self.url + path, timeout=SECONDS, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """Send something there."""
        return requests.post(self.url + path, timeout=SECONDS, **options)

    def classify(self, content: bytes = PNG, query: str = "") -> requests.Response:
        """Have a picture classified."""
        path = f"/v1/models/digits:classify{query}"
        return self.post(path, data=content, headers={"content-type": "image/png"})

    def metrics(self) -> dict[str, float]:
        """Every number of /metrics, by name and values of the labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return {
            " ".join((sample.name, *(sample.labels[name] for name in sorted(sample.labels)))): sample.value
            for family in families
            for sample in family.samples
        }

    def wait_until_ready(self) -> None:
        """Return when models are served."""
        support.wait_until(lambda: self.get("/readyz").status_code == 200)


@contextmanager
def running_http_server(
    repository: Path,
    *arguments: str,
    gates: Path | None = None,
    code: str = "from headwise_server.cli import main; main()",
    environment: Mapping[str, str] | None = None,
) -> Iterator[HttpServer]:
    """A server on two free ports; it may still be loading.

    Args:
        gates: a folder for gates, all open at first; then the server is the gated one.
    """
    command = ["--engine", "onnxruntime", "--http-listen", "127.0.0.1:0", *arguments]
    variables = {**(environment or {}), **({"GATES": str(gates)} if gates else {})}
    code = GATED_SERVER if gates else code
    with support.running_server(repository, command, code=code, environment=variables) as running:
        assert running.process.stdout is not None
        line = running.process.stdout.readline()
        assert line.startswith("listening on http"), line
        yield HttpServer(running, line.removeprefix("listening on ").strip(), gates)


def status_of(response: requests.Response) -> tuple[int, str]:
    """The HTTP code of an error, and its reason; the body is a google.rpc.Status."""
    body = response.json()
    assert body["code"] > 0
    assert body["message"]
    [info] = [detail for detail in body["details"] if detail["@type"].endswith("google.rpc.ErrorInfo")]
    assert info["domain"] == "headwise"
    return response.status_code, info["reason"]
