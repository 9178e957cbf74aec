"""What an installation brings along."""

import re
import subprocess
import sys
from importlib.metadata import requires


def required(extra: str | None) -> set[str]:
    """Names of the packages that the distribution asks for, with an extra or without one."""
    found = set()
    for requirement in requires("headwise") or []:
        name, _, marker = requirement.partition(";")
        if (f"extra == '{extra}'" in marker) if extra else not marker:
            found.add(re.split(r"[^A-Za-z0-9_-]", name)[0])
    return found


def test_client_brings_no_runtime() -> None:
    """Without an extra: grpc, protobuf and numpy alone."""
    assert required(None) == {"grpcio", "numpy", "protobuf"}


def test_runtimes_are_in_extras_that_exclude_each_other() -> None:
    """onnxruntime and onnxruntime-gpu write the same folder: one in each of [cpu] and [gpu]; none in [server]."""
    assert required("cpu") == {"onnxruntime", "openvino"}
    assert required("gpu") == {"onnxruntime-gpu"}
    assert not {"onnxruntime", "onnxruntime-gpu", "torch"} & required("server")


def test_client_imports_without_the_rest() -> None:
    """The import package works where no extra is installed."""
    code = """
import sys
for name in ("typer", "rich", "torch", "onnxruntime", "openvino", "headwise_exporter", "headwise_server", "PIL"):
    sys.modules[name] = None
from headwise import AsyncClient, Client
"""
    subprocess.run([sys.executable, "-c", code], check=True)
