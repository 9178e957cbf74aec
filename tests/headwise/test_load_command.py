"""The command `headwise load`, as a person and as a program runs it."""

import io
import json
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import processes
import pytest
import support
import typer
from headwise import Client, load, load_command
from headwise.commands import app
from headwise.connection_options import Connection
from headwise.v1 import service_pb2 as pb
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with pictures in it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(2).integers(0, 256, (3, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def run(address: str, *arguments: str | Path | float) -> Any:
    """Run the command in this process."""
    environment = {"HEADWISE_SERVER": address, "COLUMNS": "100"}
    return CliRunner().invoke(app, ["load", *map(str, arguments)], env=environment)


def test_run_shows_outcomes_times_and_rates(server: support.ServerProcess, pictures: Path) -> None:
    """Tables of a run with pictures, then the rates."""
    result = run(server.address, "--rate", 60, "--seconds", 0.5, "--images", pictures, "--verify")
    assert result.exit_code == 0, result.output
    for expected in ("100.0 %", "p99.9", "server's queue", "client's lag", "latency of OK calls", "goodput"):
        assert expected in result.stdout


def test_file_of_a_run_has_its_settings_and_adds_up(server: support.ServerProcess, tmp_path: Path) -> None:
    """--json FILE; random pixels at the model's size, and the rate in images."""
    file = tmp_path / "load.json"
    options = ("--image-rate", 400, "--images-per-call", 4, "--explain-share", 0.5, "--seconds", 0.5, "--seed", 7)
    result = run(server.address, *options, "--json", file)
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text("utf-8"))
    settings = load.LoadSettings(seconds=0.5, rate=100.0, explain_share=0.5, seed=7)
    scheduled = len(list(load.poisson_schedule(settings)))
    assert figures["calls"] == {"scheduled": scheduled, "ok": scheduled} | dict.fromkeys(
        ("refused", "cancelled", "failed", "not_sent", "unfinished"), 0
    )
    assert figures["settings"]["rate"] == 100.0
    assert figures["settings"]["images_per_call"] == 4
    assert set(figures["latency_ms"]) == {"ok", "ok_classify", "ok_explain"}
    assert [path.name for path in tmp_path.iterdir()] == ["load.json"]


def test_callers_of_a_closed_loop_have_no_schedule_to_lag_behind(server: support.ServerProcess, tmp_path: Path) -> None:
    """Each sends its next call when it has its answer."""
    file = tmp_path / "load.json"
    assert run(server.address, "--closed", 2, "--seconds", 0.5, "--json", file).exit_code == 0
    figures = json.loads(file.read_text("utf-8"))
    assert figures["schedule_lag_ms"] == {}
    assert figures["calls"]["ok"] == figures["calls"]["scheduled"] > 0


def test_run_without_any_success_has_status_1(scripted_server: Any, pictures: Path, tmp_path: Path) -> None:
    """And shows what there was instead, in the file too."""

    def fail(number: int, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        context.abort(grpc.StatusCode.INTERNAL, "a fault")
        raise AssertionError

    scripted_server.answer = fail
    file = tmp_path / "load.json"
    result = run(scripted_server.address, "--closed", 1, "--seconds", 0.2, "--images", pictures, "--json", file)
    assert result.exit_code == 1
    assert "INTERNAL" in result.stdout
    calls = json.loads(file.read_text("utf-8"))["calls"]
    assert calls["failed"] == calls["scheduled"] > 0


def test_run_with_a_wrong_answer_has_status_1(scripted_server: Any, pictures: Path) -> None:
    """However fast it came."""

    def answer(number: int, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        return pb.ClassifyResponse(classifications=[pb.Classification(logits=np.float32(number).tobytes())])

    scripted_server.answer = answer
    result = run(scripted_server.address, "--rate", 50, "--seconds", 0.5, "--images", pictures, "--verify")
    assert result.exit_code == 1
    assert "replies differ from the first one to the same request" in result.stderr


def test_interrupt_shows_what_was_measured_so_far(scripted_server: Any, pictures: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a long run with its tables, its file and the status that a shell has for it."""
    file = tmp_path / "load.json"
    options = ["--closed", "2", "--seconds", "100000", "--images", str(pictures), "--json", str(file)]
    command = [sys.executable, "-m", "headwise", "load", "--server", scripted_server.address, *options]
    with processes.start(command, stdout=processes.PIPE, stderr=processes.PIPE) as process:
        support.wait_until(lambda: scripted_server.calls > 100)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=support.LONG_SECONDS)
    assert process.returncode == 130, errors
    assert "goodput" in output
    assert "Traceback" not in errors
    figures = json.loads(file.read_text("utf-8"))
    assert figures["interrupted"]
    assert 0 < figures["seconds"] < 100_000
    assert figures["calls"]["ok"] + figures["calls"]["unfinished"] == figures["calls"]["scheduled"] >= 100


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ((), 2, "expected one of --rate, --image-rate and --closed"),
        (("--rate", 1, "--closed", 1), 2, "expected one of --rate"),
        (("--rate", 1e9), 2, "expected at most 5,000,000 calls"),
        (("--rate", 1, "--images", "/nonexistent"), 2, "does not exist"),
        (("--rate", 1, "--images", "EMPTY"), 2, "expected image files"),
        (("--rate", 1, "--model", "flowers"), 2, "found model 'flowers'"),
        (("--rate", 1, "--json", "/nonexistent/load.json"), 2, "/nonexistent/load.json: No such file or directory"),
        (("--rate", 1, "--server", "127.0.0.1:1"), 1, "no server answers at 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_run_is_said_before(
    server: support.ServerProcess, tmp_path: Path, arguments: tuple[str | float, ...], status: int, expected: str
) -> None:
    """Status 2 where the request is wrong, 1 where no server is there; a run of ten minutes would be lost otherwise."""
    given = [str(tmp_path) if argument == "EMPTY" else argument for argument in arguments]
    result = run(server.address, *given, "--seconds", 600)
    assert result.exit_code == status
    assert expected in " ".join(result.output.replace("│", " ").split())


def test_options_are_those_of_the_documentation() -> None:
    """The table of docs/load.md is made of the command's own help."""
    command = typer.main.get_command(app).commands["load"]  # type: ignore[attr-defined]  # it is a group
    rows = []
    for option in command.params:
        if option.name == "help":
            continue
        has_default = not isinstance(option.default, bool) and option.default not in (None, "")
        default = f" `{option.default}` " if has_default else " "
        rows.append(f"| `{option.opts[0]}` |{default}| {option.help} |")
    table = "\n".join(rows)
    assert table in (ROOT / "docs/load.md").read_text("utf-8"), f"expected this table:\n{table}"


def test_terminal_shows_how_far_the_run_is(server: support.ServerProcess, client: Client) -> None:
    """On one line of stderr, which is gone at the end; nothing where stderr is a file."""
    requests = load_command.requests_for(client, None, 1, 0, "", "")
    settings = load.LoadSettings(seconds=1.2, rate=50.0)
    shown: dict[bool, str] = {}
    for is_terminal in (True, False):
        err = Console(file=io.StringIO(), force_terminal=is_terminal)
        load_command.measure(Connection(server.address), requests, settings, None, Console(file=io.StringIO()), err)
        shown[is_terminal] = err.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    assert "0 of 1 s: 0 OK" in shown[True]
    assert " of 1 s: " not in shown[True].rpartition(load_command.CLEAR_LINE)[2]
    assert " of 1 s: " not in shown[False]
