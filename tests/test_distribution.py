"""What an installation brings along."""

import re
import socket
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from types import ModuleType

import pytest
import support
from headwise import cli as client
from headwise.v1 import bundle_pb2, service_pb2_grpc
from headwise_exporter import cli as exporter
from headwise_server import cli as server


def required(extra: str | None) -> set[str]:
    """Names of the packages that the distribution asks for, with an extra or without one."""
    names = set()
    for requirement in requires("headwise") or []:
        name, _, marker = requirement.partition(";")
        if (f"extra == '{extra}'" in marker) if extra else not marker:
            names.add(re.split(r"[^A-Za-z0-9_-]", name)[0])
    return names


def test_client_brings_no_runtime() -> None:
    """Without an extra: grpc, protobuf and numpy alone."""
    assert required(None) == {"grpcio", "numpy", "protobuf"}


def test_runtimes_are_in_extras_that_exclude_each_other() -> None:
    """onnxruntime and onnxruntime-gpu write the same folder: one in each of [cpu] and [gpu]; none in [server]."""
    assert required("cpu") == {"onnxruntime", "openvino"}
    assert required("gpu") == {"onnxruntime-gpu"}
    assert not {"onnxruntime", "onnxruntime-gpu", "torch"} & required("server")


@pytest.mark.parametrize(("cli", "extra"), [(client, "cli"), (server, "server"), (exporter, "exporter")])
def test_command_checks_for_every_package_of_its_extra(cli: ModuleType, extra: str) -> None:
    """By the names they are imported by; `headwise[cli]` is in the other two."""
    distributions = {name for package in cli.PACKAGES for name in packages_distributions()[package]}
    asked_for = (required(extra) | required("cli")) - {"headwise"}
    assert {name.lower().replace("_", "-") for name in distributions} == asked_for


def test_client_takes_protobuf_of_two_major_versions() -> None:
    """That of the generated code, from its version on, and the next, as protobuf promises; tritonclient asks for 6."""
    generated = re.search(r"Protobuf Python Version: ((\d+)\S*)", Path(bundle_pb2.__file__).read_text("utf-8"))
    assert generated is not None
    [requirement] = [line for line in requires("headwise") or [] if line.startswith("protobuf")]
    assert requirement.replace(" ", "") in (
        f"protobuf<{int(generated[2]) + 2},>={generated[1]}",
        f"protobuf>={generated[1]},<{int(generated[2]) + 2}",
    )
    [grpc] = [line for line in requires("headwise") or [] if line.startswith("grpcio>") or line.startswith("grpcio ")]
    assert grpc.endswith(service_pb2_grpc.GRPC_GENERATED_VERSION)


def test_client_imports_without_the_rest() -> None:
    """The import package works where no extra is installed."""
    code = """
import sys
for name in ("typer", "rich", "torch", "onnxruntime", "openvino", "headwise_exporter", "headwise_server", "PIL"):
    sys.modules[name] = None
from headwise import AsyncClient, Client
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder with modules of the user's own, under names that ours have as well."""
    for name in ("server", "exporter", "client", "images", "errors"):
        (tmp_path / f"{name}.py").write_text('raise RuntimeError("the user\'s own")\n')
    return tmp_path


def run_in(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command from a folder."""
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=support.LONG_SECONDS
    )


@pytest.mark.parametrize("command", ["headwise", "headwise-server", "exporter"])
def test_commands_work_beside_a_users_own_modules(crowded: Path, command: str) -> None:
    """What lies in the current folder does not take the place of a module of ours."""
    process = run_in(crowded, Path(sys.executable).parent / command, "--help")
    assert process.returncode == 0, process.stderr
    assert f"Usage: {command}" in process.stdout


def test_health_check_works_beside_a_users_own_modules(crowded: Path, server: support.ServerProcess) -> None:
    """`python -m` searches the current folder first: 0 for a running server, 1 without a traceback for none."""
    check = (sys.executable, "-m", "headwise_server.healthcheck")
    assert run_in(crowded, *check, server.address).returncode == 0
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        process = run_in(crowded, *check, f"127.0.0.1:{unused.getsockname()[1]}")
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
