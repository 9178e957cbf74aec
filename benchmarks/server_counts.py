"""What a server's processes have used so far, and what it has counted of the calls that it did not answer."""

import os
import urllib.request
from dataclasses import astuple, dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

OVERLOADED = "OVERLOADED"  # the reason of a refusal
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(process: int) -> float:
    """Time that a process and its children have spent on cores so far; nan where the system does not say."""
    path = Path(f"/proc/{process}")
    if not path.is_dir():
        return float("nan")
    fields = (path / "stat").read_text("ascii").rpartition(")")[2].split()
    children = (path / "task" / str(process) / "children").read_text("ascii").split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS + sum(cpu_seconds(int(child)) for child in children)


@dataclass(frozen=True)
class Counts:
    """What a server has counted since its start."""

    wasted_images: float
    refused: float
    refused_in_10_ms: float

    def __sub__(self, earlier: "Counts") -> "Counts":
        """What was counted in between."""
        return Counts(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))


def counts(http_address: str) -> Counts:
    """What a server says, all its workers together."""
    with urllib.request.urlopen(f"{http_address}/metrics") as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    samples = [sample for family in families for sample in family.samples]

    def total(name: str, **labels: str) -> float:
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    refusals = "headwise_refusal_seconds"
    return Counts(
        total("headwise_wasted_images_total"),
        total(f"{refusals}_count", reason=OVERLOADED),
        total(f"{refusals}_bucket", reason=OVERLOADED, le="0.01"),
    )
