"""`headwise-server`: what it takes, and what it says when it cannot start."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from headwise_server import commands
from headwise_server.app import Settings
from headwise_server.engines import Engine
from typer.testing import CliRunner


def invoke(*arguments: str, **environment: str) -> Any:
    """Run the command in this process."""
    return CliRunner().invoke(commands.app, list(arguments), env={"COLUMNS": "200", **environment})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, Engine]]:
    """What would have been served: settings and engine."""
    seen: list[tuple[Settings, Engine]] = []

    async def serve(settings: Settings, engine: Engine, announce: Any, end: Any) -> None:
        await asyncio.sleep(0)
        seen.append((settings, engine))
        announce("127.0.0.1:1234")

    monkeypatch.setattr(commands, "serve", serve)
    return seen


def test_options_become_settings(started: list[tuple[Settings, Engine]]) -> None:
    """Every option arrives, and the address is announced on stdout for whoever started the server."""
    arguments = (
        "--repository m --listen 0.0.0.0:1 --engine onnxruntime --precision f32 --streams 3 --max-batch 4 "
        "--max-queue 5 --max-calls 6 --max-message-mib 7 --max-reply-mib 7 --memory-mib 8 --decoding-mib 9 "
        "--stuck-seconds 10 --lame-duck-seconds 11 --grace-seconds 12 --strict --keep-versions 13 "
        "--reload-seconds 14 --max-slowdown 15"
    )
    result = invoke(*arguments.split())
    assert result.exit_code == 0, result.output
    [(settings, engine)] = started
    assert settings == Settings(
        Path("m"), "0.0.0.0:1", "f32", 3, 4, 5, 6, 7, 7, 8, 9, 10.0, 11.0, 12.0, True, 13, 14.0, 15.0
    )
    assert engine.name == "onnxruntime"
    assert result.stdout == "listening on 127.0.0.1:1234\n"


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
        ((), 2, "Missing option '--repository'"),
        (("--repository", "m", "--precision", "int4"), 2, "expected auto or f32, found 'int4'"),
        (("--repository", "m", "--max-batch", "0"), 2, "Invalid value for '--max-batch'"),
        (("--repository", "m", "--engine", "tvm"), 1, "unknown engine 'tvm'; expected one of: auto"),
        (("--repository", "/nonexistent", "--listen", "127.0.0.1:0"), 1, "found no such folder"),
        (("--repository", "m", "--listen", "nowhere"), 2, "the port is missing"),
    ],
)
def test_impossible_settings_give_one_line(arguments: tuple[str, ...], status: int, expected: str) -> None:
    """What was expected, what was found; status 2 for a wrong option, 1 for what cannot start."""
    result = invoke(*arguments)
    assert result.exit_code == status
    assert expected in result.output
    assert "Traceback" not in result.output
