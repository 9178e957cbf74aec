"""What the command shows."""

import io

import pytest
from headwise_exporter.commands import console
from rich.console import Console


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    """What three steps of four leave on stderr."""
    written = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, force_terminal=terminal, width=160))
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.progress("train", 4) as advance:
        advance("loss 2.0")
        advance("loss 1.5", 2)
    return written.getvalue()


def test_log_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal: plain lines, each with how far it is and the note."""
    first, second = shown(monkeypatch, terminal=False).splitlines()
    assert first.startswith("train: 1 of 4, ")
    assert second.startswith("train: 3 of 4, ")
    assert second.endswith("left; loss 1.5")


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn over and over in place; no lines beside it."""
    text = shown(monkeypatch, terminal=True)
    assert "3/4" in text
    assert "3 of 4" not in text
