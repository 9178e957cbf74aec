"""The figures of a load generator for a terminal."""

from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from headwise.load_samples import PERCENTILES, Floats, Samples
from headwise.tables import BAR_WIDTH
from headwise.text import shown

EDGES = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)  # of the histogram's bars, in each decade
DECADES = range(-3, 7)  # from microseconds to a quarter of an hour, in ms
BAR_SCALE = 2  # bars of the histogram are so many times as wide as others
NAMES = {"ok": "OK", "ok_classify": "OK, Classify", "ok_explain": "OK, Explain", "p99_9": "p99.9"}


def _name(key: str) -> str:
    return NAMES.get(key, key.replace("_", " "))


def milliseconds(value: float) -> str:
    """Three digits of a time, as few as it needs."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def outcomes(figures: dict[str, Any]) -> Table:
    """How many calls ended how."""
    table = Table(title="calls", title_justify="left")
    for column in ("outcome", "status", "reason"):
        table.add_column(column)
    table.add_column("calls", justify="right")
    table.add_column("share", justify="right")
    scheduled = figures["calls"]["scheduled"]
    for row in sorted(figures["outcomes"], key=lambda row: -row["calls"]):
        texts = (Text(shown(text)) for text in (_name(row["group"]), row["code"], row["reason"]))
        table.add_row(*texts, f"{row['calls']:,}", f"{100 * row['calls'] / scheduled:.1f} %")
    return table


def times(figures: dict[str, Any]) -> Table:
    """Percentiles: of latencies, of the server's own timings in the answers, and of the client's lag."""
    rows = {_name(name): row for name, row in figures["latency_ms"].items()}
    rows |= {f"server's {name}": row for name, row in figures["server_ms"].items()}
    rows |= {"client's lag": figures["schedule_lag_ms"]}
    table = Table(title="latencies from the schedule, and parts of them, in ms", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("calls", "mean", *map(_name, PERCENTILES)):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        if row:
            values = (milliseconds(row[key]) for key in ("mean", *PERCENTILES))
            table.add_row(name, f"{row['calls']:,}", *values)
    return table


def bars(latencies_ms: Floats) -> list[tuple[str, int]]:
    """Counts of latencies between edges that grow geometrically: a label in ms and a count for each bar."""
    edges = np.array([edge * 10.0**decade for decade in DECADES for edge in EDGES])
    numbers, counts = np.unique(np.searchsorted(edges, latencies_ms, "right"), return_counts=True)
    counted = dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def label(number: int) -> str:
        low = milliseconds(edges[number - 1]) if number else "0"
        return f"{low}-{milliseconds(edges[number])}" if number < len(edges) else f"over {low}"

    span = range(min(counted), max(counted) + 1) if counted else range(0)
    return [(label(number), counted.get(number, 0)) for number in span]


def histogram(latencies_ms: Floats) -> Table:
    """Latencies of the calls that were answered."""
    table = Table(title="latency of OK calls", title_justify="left")
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    table.add_column("", min_width=BAR_SCALE * BAR_WIDTH)
    rows = bars(latencies_ms)
    most = max((count for _, count in rows), default=1)
    for label, count in rows:
        table.add_row(label, f"{count:,}", "█" * round(BAR_SCALE * BAR_WIDTH * count / most))
    return table


def rates(figures: dict[str, Any]) -> str:
    """Offered, sent and answered, and by which model."""
    model = figures["model"]
    by = shown(" by {name} version {version} on {engine} in {precision}".format(**model)) if model else ""
    offered, sent, ok = (figures[f"{name}_calls_per_second"] for name in ("offered", "sent", "ok"))
    goodput, busy = figures["goodput_images_per_second"], 100 * figures["client_busy_share"]
    return (
        f"offered {offered:,.1f} calls/s, sent {sent:,.1f}, answered OK {ok:,.1f}{by}\n"
        f"goodput {goodput:,.1f} images/s over {figures['seconds']:.1f} s; client busy {busy:.0f} % of the time"
    )


def so_far(seconds: float, of_seconds: float, samples: Samples, in_flight: int) -> str:
    """One line while calls are under way."""
    counts = [f"{samples.counts[group]:,} {_name(group)}" for group in ("ok", "refused", "cancelled")]
    others = samples.counts["failed"] + samples.counts["not_sent"]
    parts = ", ".join([*counts, f"{others:,} others", f"{in_flight:,} in flight"])
    return f"{min(seconds, of_seconds):.0f} of {of_seconds:.0f} s: {parts}"
