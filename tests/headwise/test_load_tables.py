"""Figures of a load generator on a terminal."""

from itertools import pairwise

import numpy as np
from headwise import load_samples, load_tables
from headwise.load_samples import Outcome, Samples
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table


def printed(table: Table) -> str:
    """As a terminal of 100 columns shows it."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@given(st.lists(st.floats(0, 1e8), max_size=100))
def test_every_latency_is_in_one_bar(latencies_ms: list[float]) -> None:
    """From the first to the last bar that has any, without gaps."""
    rows = load_tables.bars(np.array(latencies_ms))
    assert sum(count for _, count in rows) == len(latencies_ms)
    assert all(rows[end][1] for end in (0, -1) if rows)
    bounds = [label.split("-") for label, _ in rows if "over" not in label]
    assert all(before[1] == after[0] for before, after in pairwise(bounds))


def test_bar_is_named_for_its_latencies() -> None:
    """The lower edge is in, the upper in the next one."""
    assert load_tables.bars(np.array([2.0, 2.9, 3.0])) == [("2-3", 2), ("3-5", 1)]
    assert load_tables.bars(np.array([0.0])) == [("0-0.001", 1)]


def test_longest_bar_fills_the_column() -> None:
    """The others are in proportion."""
    lines = printed(load_tables.histogram(np.array([1.2, 1.2, 2.5]))).splitlines()
    assert sorted(line.count("█") for line in lines if "█" in line) == [16, 32]


def test_outcomes_stand_with_their_shares_and_hostile_text_is_shown_as_text() -> None:
    """The most frequent first; a reason is whatever a server writes."""
    samples = Samples()
    for outcome in (Outcome("failed", "INTERNAL", "[red]\x1b[2J"), *[Outcome("ok", "OK")] * 3):
        samples.add(0.0, outcome, explain=False, latency=0.001)
    text = printed(load_tables.outcomes(load_samples.figures(samples, 1.0, 1)))
    assert text.index("75.0 %") < text.index("25.0 %")
    assert "[red]\ufffd[2J" in text


def test_times_have_a_row_for_each_kind_that_there_is() -> None:
    """None for what did not occur."""
    samples = Samples()
    samples.add(0.0, Outcome("refused", "UNAVAILABLE", "NOT_READY"), explain=False, latency=0.25, lag=0.0)
    text = printed(load_tables.times(load_samples.figures(samples, 1.0, 1)))
    assert "refused" in text
    assert "250" in text
    assert "client's lag" in text
    assert "OK" not in text
    assert "server's" not in text


def test_line_under_way_counts_what_is_known() -> None:
    """Calls that came back, and those that are out."""
    samples = Samples()
    for group in ("ok", "ok", "refused", "failed", "not_sent"):
        samples.add(0.0, Outcome(group), explain=False)  # type: ignore[arg-type]  # one of the groups
    line = load_tables.so_far(3.0, 10.0, samples, 1234)
    assert line == "3 of 10 s: 2 OK, 1 refused, 0 cancelled, 2 others, 1,234 in flight"
