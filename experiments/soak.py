"""Does a server's memory grow? Load at a share of what it can do, for as long as asked, with its resident set sampled.

First the saturation is measured, with callers that call again when they have their answer. Then calls come at random
times (`headwise load`), in rounds of a minute, each of whose replies is compared with the first one to the same
request. Growth is as `resident_memory` has it.

    python experiments/soak.py --target localhost:50051 --pid PID --minutes 60 [--share 0.7] [--explain-share 0.1]
        [--record results/digits/soak.json] [--json]
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from headwise import Client
from headwise.load import LoadSettings, run
from headwise.load_requests import make_requests, random_images
from headwise.load_samples import Group, Samples
from headwise_exporter.files import write_json
from headwise_exporter.machine import machine
from resident_memory import growth, resident_mib
from rich.console import Console
from rich.progress import Progress

ROUND_SECONDS, SATURATION_SECONDS, CALLERS = 60.0, 5.0, 16
COUNTED: tuple[Group, ...] = ("ok", "refused", "cancelled", "failed", "not_sent")


def measure(target: str, pid: int, minutes: float, share: float, explain_share: float) -> dict[str, Any]:
    """Figures of one run."""
    with Client(target) as client:
        size = client.get_model().input
        images = random_images(size, 1, seed=0)
    requests = make_requests(images, 1)
    closed = run(target, requests, LoadSettings(SATURATION_SECONDS, callers=CALLERS, explain_share=explain_share))
    rate = share * closed.samples.counts["ok"] / SATURATION_SECONDS
    samples_mib: list[float] = []
    counts: Counter[str] = Counter()
    wrong, began, seed = 0, time.monotonic(), 0

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("minutes", total=minutes)

        def sample(seconds: float, samples: Samples, in_flight: int) -> None:
            samples_mib.append(resident_mib(pid))
            progress.update(bar, completed=(time.monotonic() - began) / 60)

        while (left := 60 * minutes - (time.monotonic() - began)) > 1:
            seconds, seed = min(ROUND_SECONDS, left), seed + 1
            settings = LoadSettings(
                seconds, rate=rate, explain_share=explain_share, verify=True, connections=4, seed=seed
            )
            measured = run(target, requests, settings, sample)
            counts.update({name: measured.samples.counts[name] for name in COUNTED})
            wrong += measured.samples.wrong_replies
            if measured.interrupted:
                break
    return {
        "machine": machine(),
        "minutes": (time.monotonic() - began) / 60,
        "calls_per_second": rate,
        "share_of_saturation": share,
        "explain_share": explain_share,
        "calls": dict(counts),
        "wrong_replies": wrong,
        "resident_mib": {**growth(samples_mib), "samples": len(samples_mib)},
    }


def main(
    target: Annotated[str, typer.Option(help="Address and port of the server.")],
    pid: Annotated[int, typer.Option(help="Its process, on this machine.")],
    minutes: Annotated[float, typer.Option(min=0.2, help="Of load.")] = 60.0,
    share: Annotated[float, typer.Option(min=0.01, help="Of the calls a second that it can do.")] = 0.7,
    explain_share: Annotated[float, typer.Option(min=0, max=1, help="Of the calls.")] = 0.1,
    record: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send, sample, print and record. Exit status 1 where a reply was wrong or a call failed."""
    result = measure(target, pid, minutes, share, explain_share)
    if record:
        write_json(record, result)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        mib, calls = result["resident_mib"], result["calls"]
        Console().print(
            f"{result['minutes']:.1f} minutes at {result['calls_per_second']:.0f} calls/s: {calls['ok']:,} answered, "
            f"{result['wrong_replies']} wrong, {calls['refused']:,} refused, {calls['failed']:,} failed. "
            f"{mib['second_tenth']:.1f} MiB after the first tenth, {mib['last_tenth']:.1f} MiB at the end "
            f"({mib['growth']:+.1f}), {mib['largest']:.1f} MiB at most."
        )
    if result["wrong_replies"] or result["calls"]["failed"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
