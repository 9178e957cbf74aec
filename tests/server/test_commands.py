"""`headwise-server`: what it takes, and what it says when it cannot start."""

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from headwise_server import commands
from headwise_server.app import Host
from headwise_server.engines import Engine
from headwise_server.settings import Settings
from typer.testing import CliRunner


def invoke(*arguments: str, **environment: str) -> Any:
    """Run the command in this process."""
    return CliRunner().invoke(commands.app, list(arguments), env={"COLUMNS": "200", **environment})


LOGGERS = ("", "headwise_server", "headwise_server.access", "uvicorn")


@pytest.fixture(autouse=True)
def unchanged_logging() -> Iterator[None]:
    """The command sets up the logging of its process, which is here that of all other tests: it is put back."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, Engine]]:
    """What would have been served: settings and engine."""
    seen: list[tuple[Settings, Engine]] = []

    async def serve(settings: Settings, engine: Engine, host: Host) -> None:
        await asyncio.sleep(0)
        seen.append((settings, engine))
        host.listening("127.0.0.1:1234")

    monkeypatch.setattr(commands, "serve", serve)
    return seen


def test_options_become_settings(started: list[tuple[Settings, Engine]]) -> None:
    """Options arrive, and the address is announced on stdout for whoever started the server."""
    arguments = (
        "--repository m --listen 0.0.0.0:1 --engine onnxruntime --precision f32 --streams 3 --max-batch 4 "
        "--max-queue 5 --max-calls 6 --max-message-mib 7 --max-reply-mib 7 --memory-mib 50 --decoding-mib 9 "
        "--stuck-seconds 10 --lame-duck-seconds 11 --grace-seconds 12 --strict --keep-versions 13 "
        "--reload-seconds 14 --max-slowdown 15"
    )
    result = invoke(*arguments.split())
    assert result.exit_code == 0, result.output
    [(settings, engine)] = started
    given = iter(arguments.replace("--strict", "--strict true").split())
    expected = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(given, given, strict=True)}
    assert settings == Settings.model_validate(expected)
    assert engine.name == "onnxruntime"
    assert result.stdout == "listening on 127.0.0.1:1234\n"


def test_every_setting_has_an_option_and_a_variable() -> None:
    """And no option has a default of its own, which would hide the file."""
    options: dict[str, Any] = {option.name: option for option in typer.main.get_command(commands.app).params}
    for name in Settings.model_fields:
        assert options[name].envvar == f"HEADWISE_{name.upper()}"
        assert options[name].default is None


def test_options_may_come_from_the_environment(started: list[tuple[Settings, Engine]]) -> None:
    """As a container is configured."""
    result = invoke(HEADWISE_REPOSITORY="m", HEADWISE_LISTEN="0.0.0.0:9", HEADWISE_MAX_QUEUE="3")
    assert result.exit_code == 0, result.output
    settings = started[0][0]
    assert (settings.repository, settings.listen, settings.max_queue) == (Path("m"), "0.0.0.0:9", 3)
    assert settings.streams >= 1


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ((), 2, "expected repository, found none: give --repository"),
        (
            ("--repository", "m", "--precision", "int4"),
            2,
            "--precision: expected 'auto', 'f32', 'bf16', 'f16' or 'int8', found 'int4'",
        ),
        (("--repository", "m", "--max-batch", "0"), 2, "--max-batch: expected at least 1, found '0'"),
        (("--repository", "m", "--memory-mib", "199"), 2, "8 MiB for its parts, so 200 or more; found 199"),
        (("--config", "/nonexistent"), 2, "/nonexistent cannot be read"),
        (("--repository", "m", "--engine", "tvm"), 1, "unknown engine 'tvm'; expected one of: auto"),
        (("--repository", "/nonexistent", "--listen", "127.0.0.1:0"), 1, "found no such folder"),
        (("--repository", "m", "--listen", "nowhere"), 2, "the port is missing"),
    ],
)
def test_impossible_settings_give_one_line(arguments: tuple[str, ...], status: int, expected: str) -> None:
    """What was expected, what was found; status 2 for a wrong option, 1 for what cannot start."""
    result = invoke(*arguments)
    assert result.exit_code == status
    assert expected in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_settings_are_shown_with_their_sources(tmp_path: Path) -> None:
    """An option goes before the environment, that before the file; what is printed is a file of the same settings."""
    file = tmp_path / "server.toml"
    file.write_text('repository = "m"\nmax_batch = 2\nmax_queue = 2\nmax_calls = 2\nstrict = true\n')
    environment = {"HEADWISE_CONFIG": str(file), "HEADWISE_MAX_BATCH": "3", "HEADWISE_MAX_QUEUE": "3"}
    result = invoke("--max-batch", "4", "--no-strict", "--show-settings", **environment)
    assert result.exit_code == 0, result.output
    rows = dict(re.findall(r"(?m)^(.*\S) +# (\w+)$", result.output))
    assert len(rows) == len(Settings.model_fields)
    shown = {row: source for row, source in rows.items() if source != "default"}
    assert shown == {
        'repository = "m"': "file",
        "max_batch = 4": "option",
        "max_queue = 3": "environment",
        "max_calls = 2": "file",
        "strict = false": "option",
    }
    file.write_text(result.output)
    again = invoke("--config", str(file), "--show-settings")
    assert re.findall(r"(?m)^(.*\S) +#", again.output) == list(rows)
