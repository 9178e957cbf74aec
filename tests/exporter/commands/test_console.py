"""What the command shows."""

import io
import itertools

import pytest
import support
from headwise.v1.bundle_pb2 import Bundle, PruningProvenance
from headwise_exporter.commands import console
from rich.console import Console


def written_to(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, width: int = 160) -> io.StringIO:
    """What is shown from now on; in a log, a line every moment."""
    written = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, force_terminal=terminal, width=width))
    monkeypatch.setattr(console, "SECONDS_TO_FIRST_LINE", 0.001)
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.001)
    return written


def test_log_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal: how far it is, of what unit, the time left and the note; at the end how long it took."""
    written = written_to(monkeypatch, terminal=False)
    with console.progress("train", 4, "images") as advance:
        support.wait_until(lambda: "train: 0 of 4 images\n" in written.getvalue())
        advance(1, "loss 2.0")
        advance(2, "loss 1.5")
        support.wait_until(lambda: "loss 1.5" in written.getvalue())
    lines = written.getvalue().splitlines()
    assert "train: 3 of 4 images, 0:00:00 left; loss 1.5" in lines
    assert lines[-1].startswith("train: 3 of 4 images in 0:")


def test_log_gets_lines_while_one_step_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come by the clock, not by the steps."""
    written = written_to(monkeypatch, terminal=False)
    with console.progress("export", 2, "graphs"):
        support.wait_until(lambda: written.getvalue().count("export: 0 of 2 graphs\n") > 2)


def test_what_is_over_in_a_moment_leaves_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log has lines about what takes time."""
    written = written_to(monkeypatch, terminal=False)
    monkeypatch.setattr(console, "SECONDS_TO_FIRST_LINE", support.LONG_SECONDS)
    with console.progress("fingerprint", 4, "images") as advance:
        advance(4)
    assert written.getvalue() == ""


def test_lines_end_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of a stage after it failed, least of all that it is done."""
    written = written_to(monkeypatch, terminal=False)
    with pytest.raises(KeyboardInterrupt), console.progress("train", 4, "images"):
        support.wait_until(written.getvalue)
        raise KeyboardInterrupt
    assert "images in" not in written.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """It is drawn in place, within the width of the terminal: the note is cut, the count and the time are not."""
    written = written_to(monkeypatch, terminal=True, width=width)
    with console.progress("train", 514_080, "images") as advance:
        advance(300_000, "epoch 164 of 280, 171 images/s, loss 2.000")
        advance(1836, "epoch 165 of 280, 171 images/s, loss 1.912")
    text = written.getvalue()
    assert "301,836 of 514,080 images" in text
    assert " left" in text
    assert ("loss 1.912" in text) == (width == 160)
    assert "epoch 165 of 280" in text
    assert "train: " not in text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that a bar reads; its last entry is now."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[-1])
    return now


def test_time_left_leaves_out_what_was_resumed_and_the_first_step(clock: list[float]) -> None:
    """900 of 1,000 were there before; the first ten took a minute, the next ten seconds: 80 more take 80 seconds."""
    clock.append(100.0)
    bar = console._Bar("train", 1000, "images", opened_at=0.0)
    bar.advance(900, None, resumed=True)
    assert bar.left() == ""
    clock.append(160.0)
    bar.advance(10, None, resumed=False)
    assert bar.left() == "0:09:00 left"
    clock.append(170.0)
    bar.advance(10, None, resumed=False)
    assert bar.left() == "0:01:20 left"
    clock.append(175.0)
    assert bar.left() == "0:01:15 left"


def test_unknown_total_is_counted(clock: list[float]) -> None:
    """A server that does not say how long a file is."""
    bar = console._Bar("fetch a", None, "MiB")
    for _ in itertools.repeat(None, 3):
        bar.advance(1, None, resumed=False)
    assert bar.line() == "fetch a: 3 MiB"


@pytest.mark.parametrize(("speedup", "missed"), [(2.0, False), (1.97, False), (1.5, True)])
def test_speedup_that_was_not_reached_is_said(speedup: float, missed: bool) -> None:
    """Under the table of the pruned models, with what was asked for."""
    pruning = PruningProvenance(criterion="taylor", cost="latency", speedup_asked=2.0, speedup=speedup)
    caption = str(console.candidate_table(Bundle(pruning=pruning)).caption)
    assert f"1/{speedup:.2f} of the latency" in caption
    assert ("not the 1/2.00 asked for" in caption) == missed
