"""What a load generator saw of each call, and the figures of it.

Latency counts from the moment that the schedule had for a call, not from the moment it was sent: a client that falls
behind, or waits while a server stalls, would otherwise leave out the very calls that suffered (coordinated omission).
Percentiles are calls that were seen: none is interpolated.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Group = Literal["ok", "refused", "cancelled", "failed", "not_sent", "unfinished"]
GROUPS: tuple[Group, ...] = ("ok", "refused", "cancelled", "failed", "not_sent", "unfinished")
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}
REFUSALS = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE")  # with an ErrorInfo, which the server alone gives
LAG_SHARE, LAG_SECONDS = 0.1, 1e-3  # of the latency's 99th percentile, and at least: then the client is in the way
BUSY_SHARE = 0.9  # of a core, by the client's event loop

Floats = NDArray[np.float64]


class Outcome(NamedTuple):
    """How a call ended: gRPC code, and reason of the ErrorInfo; both may be empty."""

    group: Group
    code: str = ""
    reason: str = ""


OK, CANCELLED = Outcome("ok", "OK"), Outcome("cancelled", "CANCELLED", "by this client")
UNREADABLE = Outcome("failed", "OK", "unreadable reply")
NOT_SENT = Outcome("not_sent", reason="too many calls in flight")
UNFINISHED = Outcome("unfinished", reason="in flight when interrupted")


def error_outcome(code: str, reason: str) -> Outcome:
    """The outcome for a call that came back with an error.

    Args:
        reason: of the ErrorInfo; empty where there is none, as in what gRPC says by itself.
    """
    return Outcome("refused" if reason and code in REFUSALS else "failed", code, reason)


class Timings(NamedTuple):
    """What a reply says of the server's time, in seconds; nan where there is no reply."""

    queue: float = np.nan
    inference: float = np.nan
    total: float = np.nan


@dataclass
class Samples:
    """A row for each call, 33 bytes of it."""

    scheduled_seconds: "array[float]" = field(default_factory=lambda: array("d"))  # since the start
    lag_seconds: "array[float]" = field(default_factory=lambda: array("f"))  # from the schedule to the sending
    latency_seconds: "array[float]" = field(default_factory=lambda: array("f"))  # from the schedule to the answer
    timings_seconds: "array[float]" = field(default_factory=lambda: array("f"))  # three for each row, see `Timings`
    explain: "array[int]" = field(default_factory=lambda: array("b"))  # 1 for Explain, 0 for Classify
    outcome_numbers: "array[int]" = field(default_factory=lambda: array("I"))
    outcomes: list[Outcome] = field(default_factory=list)  # what the numbers stand for
    counts: Counter[Group] = field(default_factory=Counter)
    wrong_replies: int = 0  # answered, but not as the same request was answered first

    def __len__(self) -> int:
        return len(self.explain)

    def add(
        self,
        scheduled: float,
        outcome: Outcome,
        *,
        explain: bool,
        lag: float = np.nan,
        latency: float = np.nan,
        timings: Timings | None = None,
    ) -> None:
        """A row; all times are in seconds."""
        if outcome not in self.outcomes:
            self.outcomes.append(outcome)
        self.scheduled_seconds.append(scheduled)
        self.lag_seconds.append(lag)
        self.latency_seconds.append(latency)
        self.timings_seconds.extend(timings or Timings())
        self.explain.append(explain)
        self.outcome_numbers.append(self.outcomes.index(outcome))
        self.counts[outcome.group] += 1


def percentiles_ms(seconds: Floats) -> dict[str, float]:
    """Count, mean and percentiles of times in ms; empty where there are none."""
    if not len(seconds):
        return {}
    values = (1e3 * np.percentile(seconds, list(PERCENTILES.values()), method="higher")).tolist()
    named = dict(zip(PERCENTILES, values, strict=True))
    return {"calls": len(seconds), "mean": 1e3 * float(seconds.mean()), **named}


@dataclass(frozen=True)
class Columns:
    """The samples as arrays, a value for each call."""

    scheduled: Floats
    lag: Floats
    latency: Floats
    queue: Floats
    inference: Floats
    total: Floats
    explain: NDArray[np.bool_]
    groups: NDArray[np.str_]


def columns(samples: Samples) -> Columns:
    """Copies, so that the samples may go on growing."""
    queue, inference, total = np.array(samples.timings_seconds, float).reshape(-1, 3).T
    groups = np.array([outcome.group for outcome in samples.outcomes], str)
    return Columns(
        scheduled=np.array(samples.scheduled_seconds, float),
        lag=np.array(samples.lag_seconds, float),
        latency=np.array(samples.latency_seconds, float),
        queue=queue,
        inference=inference,
        total=total,
        explain=np.array(samples.explain, bool),
        groups=groups[np.array(samples.outcome_numbers, int)] if len(samples) else groups,
    )


def _latencies(table: Columns) -> dict[str, dict[str, float]]:
    ok = table.groups == "ok"
    chosen = {"ok": ok}
    if len(set(table.explain)) == 2:
        chosen |= {"ok_classify": ok & ~table.explain, "ok_explain": ok & table.explain}
    chosen |= {group: table.groups == group for group in ("refused", "failed")}
    return {name: percentiles_ms(table.latency[rows]) for name, rows in chosen.items() if rows.any()}


def figures(samples: Samples, seconds: float, images_per_call: int) -> dict[str, Any]:
    """What the samples come to, as JSON has it.

    Rates are over the time in which calls were scheduled. An answer that came after its end counts for latency, and
    not for the rates.

    Args:
        seconds: how long calls were scheduled.
    """
    table = columns(samples)
    ok = table.groups == "ok"
    in_time = table.scheduled + table.latency <= seconds  # never, where there is no latency
    sent = ~np.isin(table.groups, ["not_sent"])
    numbers = Counter(samples.outcome_numbers)
    return {
        "seconds": seconds,
        "calls": {"scheduled": len(samples), **{group: samples.counts[group] for group in GROUPS}},
        "outcomes": [
            {**outcome._asdict(), "calls": numbers[number]} for number, outcome in enumerate(samples.outcomes)
        ],
        "wrong_replies": samples.wrong_replies,
        "offered_calls_per_second": len(samples) / seconds,
        "sent_calls_per_second": int(sent.sum()) / seconds,
        "ok_calls_per_second": int((ok & in_time).sum()) / seconds,
        "goodput_images_per_second": images_per_call * int((ok & in_time).sum()) / seconds,
        "latency_ms": _latencies(table),
        "server_ms": {name: percentiles_ms(getattr(table, name)[ok]) for name in Timings._fields},
        "schedule_lag_ms": percentiles_ms(table.lag[np.isfinite(table.lag)]),
    }


def warnings(values: dict[str, Any]) -> list[str]:
    """Reasons not to take the figures for those of the server.

    Args:
        values: of `figures`, with `client_busy_share`.
    """
    reasons = []
    lag, latency = values["schedule_lag_ms"].get("p99", 0.0), values["latency_ms"].get("ok", {}).get("p99", 0.0)
    if lag > max(LAG_SHARE * latency, 1e3 * LAG_SECONDS):
        reasons.append(
            f"the client is the bottleneck: it sent 1 % of the calls more than {lag:.1f} ms after their time. "
            "Lower the rate, or run several clients on other cores."
        )
    elif values["client_busy_share"] > BUSY_SHARE:
        reasons.append(
            f"the client may be the bottleneck: its event loop was busy {100 * values['client_busy_share']:.0f} % of "
            "the time. Run several clients on other cores."
        )
    if not_sent := values["calls"]["not_sent"]:
        reasons.append(
            f"{not_sent:,} calls were not sent, because too many were in flight: latencies leave them out. "
            "Lower the rate, or raise --max-in-flight."
        )
    if wrong := values["wrong_replies"]:
        reasons.append(f"{wrong:,} replies differ from the first one to the same request.")
    return reasons
