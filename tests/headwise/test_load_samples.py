"""What a load generator saw, and its figures."""

from typing import Any

import numpy as np
import pytest
from headwise import load_samples
from headwise.load_samples import GROUPS, NOT_SENT, OK, Group, Outcome, Samples, Timings
from hypothesis import given
from hypothesis import strategies as st

TIMES = st.floats(0, 100, width=32)
ROWS = st.lists(st.tuples(st.sampled_from(GROUPS), TIMES, TIMES, st.booleans()), max_size=50)


def samples_of(rows: list[tuple[Group, float, float, bool]]) -> Samples:
    """Each of a group, with a scheduled time and a latency where its group has one."""
    samples = Samples()
    for group, scheduled, latency, explain in rows:
        has_latency = group not in ("not_sent", "unfinished")
        samples.add(
            scheduled,
            Outcome(group, group.upper()),
            explain=explain,
            latency=latency if has_latency else np.nan,
            timings=Timings(0.1, 0.2, 0.4) if group == "ok" else None,
        )
    return samples


@given(ROWS)
def test_counts_add_up(rows: list[tuple[Group, float, float, bool]]) -> None:
    """Every call is in exactly one group, and in one outcome."""
    figures = load_samples.figures(samples_of(rows), 10.0, 1)
    calls = figures["calls"]
    assert calls["scheduled"] == len(rows) == sum(calls[group] for group in GROUPS)
    assert sum(outcome["calls"] for outcome in figures["outcomes"]) == len(rows)
    latencies = figures["latency_ms"]
    assert sum(latencies.get(group, {"calls": 0})["calls"] for group in ("ok", "refused", "failed")) == sum(
        calls[group] for group in ("ok", "refused", "failed")
    )


@given(ROWS, st.floats(0.1, 100), st.integers(1, 16))
def test_goodput_counts_the_answers_that_came_in_time(
    rows: list[tuple[Group, float, float, bool]], seconds: float, images_per_call: int
) -> None:
    """Within the time in which calls were scheduled; late ones would make a server look faster than it is."""
    figures = load_samples.figures(samples_of(rows), seconds, images_per_call)
    in_time = sum(
        group == "ok" and scheduled + float(np.float32(latency)) <= seconds for group, scheduled, latency, _ in rows
    )
    assert figures["goodput_images_per_second"] * seconds == pytest.approx(images_per_call * in_time)
    assert figures["offered_calls_per_second"] * seconds == pytest.approx(len(rows))
    not_sent = sum(group == "not_sent" for group, *_ in rows)
    assert figures["sent_calls_per_second"] * seconds == pytest.approx(len(rows) - not_sent)


@given(st.lists(TIMES, min_size=1, max_size=300))
def test_percentiles_are_latencies_that_were_seen(seconds: list[float]) -> None:
    """None is made up by interpolation, and none is smaller than the share that it stands for."""
    row = load_samples.percentiles_ms(np.array(seconds))
    assert row["calls"] == len(seconds)
    assert row["max"] == 1e3 * max(seconds)
    for name, percent in load_samples.PERCENTILES.items():
        assert row[name] in {1e3 * value for value in seconds}
        assert np.mean(1e3 * np.array(seconds) <= row[name]) >= percent / 100 - 1e-9


def test_kinds_have_rows_of_their_own_where_both_were_sent() -> None:
    """Explain takes longer; one row for both would describe neither."""
    both = samples_of([("ok", 0, 1, False), ("ok", 0, 2, True), ("ok", 0, 3, True)])
    rows = load_samples.figures(both, 1.0, 1)["latency_ms"]
    assert {name: row["calls"] for name, row in rows.items()} == {"ok": 3, "ok_classify": 1, "ok_explain": 2}
    one = load_samples.figures(samples_of([("ok", 0, 1, False)]), 1.0, 1)["latency_ms"]
    assert list(one) == ["ok"]


@pytest.mark.parametrize(
    ("code", "reason", "group"),
    [
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", "refused"),
        ("DEADLINE_EXCEEDED", "DEADLINE_UNMEETABLE", "refused"),
        ("UNAVAILABLE", "NOT_READY", "refused"),
        ("RESOURCE_EXHAUSTED", "", "failed"),  # a message that is too large
        ("DEADLINE_EXCEEDED", "", "failed"),  # no answer in time
        ("UNAVAILABLE", "", "failed"),  # nobody there
        ("INTERNAL", "INTERNAL", "failed"),
    ],
)
def test_refused_is_what_the_server_says_itself(code: str, reason: str, group: str) -> None:
    """An ErrorInfo shows that the server decided so; what gRPC says by itself is a failure."""
    assert load_samples.error_outcome(code, reason) == (group, code, reason)


def values(**changes: Any) -> dict[str, Any]:
    """Figures of a run with nothing to warn of."""
    calm = {"schedule_lag_ms": {"p99": 0.5}, "latency_ms": {"ok": {"p99": 4.0}}, "client_busy_share": 0.3}
    return {**calm, "calls": {"not_sent": 0}, "wrong_replies": 0, **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"schedule_lag_ms": {}, "latency_ms": {}}, None),  # a closed loop in which nothing succeeds
        ({"schedule_lag_ms": {"p99": 6.0}, "latency_ms": {"ok": {"p99": 90.0}}}, None),
        ({"schedule_lag_ms": {"p99": 6.0}}, "the client is the bottleneck: it sent 1 % of the calls more than 6.0 ms"),
        ({"client_busy_share": 0.95}, "the client may be the bottleneck: its event loop was busy 95 %"),
        ({"calls": {"not_sent": 1200}}, "1,200 calls were not sent"),
        ({"wrong_replies": 3}, "3 replies differ"),
    ],
)
def test_warnings_say_what_spoils_the_figures(changes: dict[str, Any], expected: str | None) -> None:
    """A lag counts where it is a tenth of what is measured; a busy client, calls not sent and wrong replies always."""
    reasons = load_samples.warnings(values(**changes))
    assert len(reasons) == (expected is not None)
    assert "".join(reasons).startswith(expected or "")


def test_samples_grow_while_they_are_looked_at() -> None:
    """Arrays of samples so far do not lock them."""
    samples = samples_of([("ok", 0, 1, False)])
    table = load_samples.columns(samples)
    samples.add(1.0, NOT_SENT, explain=False)
    samples.add(1.0, OK, explain=False, latency=1.0)
    assert (len(table.latency), len(load_samples.columns(samples).latency)) == (1, 3)
