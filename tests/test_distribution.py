"""What an installation brings along."""

import os
import re
import socket
import sys
import tarfile
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from types import ModuleType

import processes
import pytest
import support
from headwise import cli as client
from headwise.bundle import file_sha256
from headwise.v1 import bundle_pb2, service_pb2_grpc
from headwise_exporter import cli as exporter
from headwise_exporter.model.shipped import shipped_checkpoints
from headwise_server import cli as server

ROOT = Path(__file__).parent.parent


def required(extra: str | None) -> set[str]:
    """Names of the packages that the distribution asks for, with an extra or without one."""
    names = set()
    for requirement in requires("headwise") or []:
        name, _, marker = requirement.partition(";")
        if (f"extra == '{extra}'" in marker) if extra else not marker:
            names.add(re.split(r"[^A-Za-z0-9_-]", name)[0])
    return names


def test_client_brings_no_runtime() -> None:
    """Without an extra: grpc, the messages of its errors, protobuf and numpy alone."""
    assert required(None) == {"googleapis-common-protos", "grpcio", "numpy", "protobuf"}


def test_runtimes_are_in_extras_that_exclude_each_other() -> None:
    """onnxruntime and onnxruntime-gpu write the same folder: one in each of [cpu] and [gpu]; none in [server]."""
    assert required("cpu") == {"onnxruntime", "openvino"}
    assert required("gpu") == {"onnxruntime-gpu"}
    assert not {"onnxruntime", "onnxruntime-gpu", "torch"} & required("server")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive of this tree, unpacked, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "hatchling", "build", "-d", folder, "-t")
    processes.run([*build, "sdist"], cwd=ROOT, check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    unpacked = next(path for path in folder.iterdir() if path.is_dir())
    processes.run([*build, "wheel"], cwd=unpacked, check=True)
    return folder


def test_wheel_brings_the_shipped_checkpoints(archives: Path, tmp_path: Path) -> None:
    """An installation, by way of the source archive, resolves `checkpoint:NAME` to the files of the source tree."""
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    code = """
from headwise_exporter.model.initial_weights import weights_path
from headwise_exporter.model.shipped import shipped_checkpoints
print(*(weights_path(f"checkpoint:{name}") for name in shipped_checkpoints()))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # not our files
    environment["PYTHONPATH"] = str(tmp_path)
    process = processes.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    installed = [Path(path) for path in process.stdout.split()]
    assert all(path.is_relative_to(tmp_path) for path in installed)
    hashes = [{path.name: file_sha256(path) for path in paths} for paths in (installed, shipped_checkpoints().values())]
    assert hashes[0] == hashes[1]
    assert {"cifar100.safetensors", "digits.safetensors", "flowers102.safetensors"} <= set(hashes[0])


def test_wheel_brings_the_page(archives: Path) -> None:
    """The files of the page as they are in the source tree: nobody has to build it."""
    source, folder = ROOT / "server", "headwise_server/ui/"
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as wheel:
        contents = {name: wheel.read(name) for name in wheel.namelist() if name.startswith(folder)}
    assert {f"{folder}index.html", f"{folder}page.js", f"{folder}page.css"} <= set(contents)
    assert contents == {name: (source / name).read_bytes() for name in contents}


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
    processes.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder with modules of the user's own, under names that ours have as well."""
    for name in ("server", "exporter", "client", "images", "errors"):
        (tmp_path / f"{name}.py").write_text('raise RuntimeError("the user\'s own")\n')
    return tmp_path


def run_in(folder: Path, *command: str | Path) -> processes.Completed:
    """Run a command from a folder."""
    return processes.run(command, cwd=folder)


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
