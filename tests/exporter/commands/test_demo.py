"""The demo: real programs, a recipe that takes seconds."""

import sys
from pathlib import Path

import pytest
import support
from headwise_exporter.commands import demo

QUICK_EXPORTER = """
import sys
sys.path.insert(0, {tests!r})
import support
from headwise_exporter import cli, recipes
recipes.RECIPES["digits"] = support.small_recipe
cli.main()
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter that the demo runs trains for seconds."""
    code = QUICK_EXPORTER.format(tests=str(Path(support.__file__).parent))
    monkeypatch.setitem(demo.PROGRAMS, "exporter", (sys.executable, "-c", code))


@pytest.mark.usefixtures("quick")
def test_demo_goes_from_an_empty_folder_to_an_explained_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every command is shown and runs, and the server has stopped by itself."""
    monkeypatch.chdir(tmp_path)
    result = support.exporter("demo")
    shown = capfd.readouterr().out
    assert result.exit_code == 0, result.output
    for command in ("exporter build", "exporter samples", "headwise-server", "headwise classify", "headwise explain"):
        assert f"$ {command} " in result.output
    assert "bundle: models/digits/1" in shown
    assert "against" in shown
    assert "the server has drained and stopped" in result.output
    assert (tmp_path / "models" / "digits" / "1" / "manifest.json").is_file()


def test_command_that_fails_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line with the command and its status; nothing is served."""
    monkeypatch.setitem(demo.PROGRAMS, "exporter", (sys.executable, "-c", "raise SystemExit(3)"))
    result = support.exporter("demo", "--out", tmp_path / "models", "--runs", tmp_path / "runs")
    assert result.exit_code == 1
    assert "to succeed, found exit status 3" in result.output
    assert "headwise-server" not in result.output


@pytest.mark.usefixtures("quick")
def test_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is shown."""
    monkeypatch.setitem(demo.PROGRAMS, "headwise-server", (sys.executable, "-c", "raise SystemExit('no engine')"))
    result = support.exporter("demo", "--out", tmp_path / "models", "--runs", tmp_path / "runs")
    assert result.exit_code == 1
    assert "found that it stopped" in result.output
    assert "no engine" in result.output
