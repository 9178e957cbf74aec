"""What serving costs beside the bare engine, and what it keeps under overload and cancellation: one run on a bundle.

Each round has every case in turn, so that a slow moment of the machine meets all; a figure is the median over the
rounds, and a ratio the median of the ratios within the rounds, both with their least and largest.

| case | what it is |
|---|---|
| engine | batches in this process, on as many threads as the server has streams; Classify and Explain |
| lone | one image at a time: in this process, and by one caller over gRPC |
| classify | callers of full batches over gRPC, each of which calls again when it has its answer: saturation |
| single | the same with calls of one image |
| moderate | calls of one image at random times, at 70 % of what `single` gave in this round |
| cancelling | as `classify`, and 30 % of the calls are cancelled, most of them before their answer |
| overload | calls of full batches at random times, three times as many as `classify` gave in this round |
| explain | as `classify`, with Explain |

Load comes from `headwise load` in a process of its own, engine and server run on the same cores. On a machine where
the client has no cores of its own, the cases over gRPC pay for it too: `cpu_ms_per_image` is of the server alone. From
the server's metrics come `wasted_images` and, of the calls that it refused, `refused_in_10_ms_share`, timed there.

    python benchmarks/serving_overhead.py models/digits/1 [--rounds 5] [--seconds 10] [--engine onnxruntime]
        [--precision f32] [--workers 2] [--server-cores 0] [--client-cores 1]
        [--record results/digits/serving_overhead.json] [--json]
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from headwise import Client, ServedModel
from headwise.bundle import accepted_variants, read_manifest
from headwise.graphs import CLASSIFY_GRAPH, EXPLAIN_GRAPH
from headwise_exporter.files import write_json
from headwise_exporter.machine import machine
from headwise_server.engines import AUTO, Precision, Session, create
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from server_counts import counts, cpu_seconds

MODERATE_SHARE, OVERLOAD_FACTOR, CANCEL_SHARE = 0.7, 3.0, 0.3
CALLERS_PER_STREAM = 4  # of full batches: one that runs, and three that wait, are read or are written
DEADLINE_SECONDS = 2.0  # under overload
CANCEL_DEADLINE = 4.0  # medians of the latency without cancelling
START_SECONDS = 600.0

Values = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    engine: str
    precision: str
    batch: int
    streams: int
    workers: int  # processes of the server
    rounds: int
    seconds: float  # of each case
    server_cores: tuple[int, ...]
    client_cores: tuple[int, ...]


def _usable_cores() -> tuple[int, ...]:
    affinity = getattr(os, "sched_getaffinity", None)
    return tuple(sorted(affinity(0))) if affinity else tuple(range(os.cpu_count() or 1))


def _stay_on(cores: Sequence[int]) -> None:
    """Keep this process on some cores; elsewhere than on Linux it stays where the system puts it."""
    if pin := getattr(os, "sched_setaffinity", None):
        pin(0, cores)


@contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    before = _usable_cores()
    _stay_on(cores)
    try:
        yield
    finally:
        _stay_on(before)


@contextmanager
def serving(repository: Path, settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Address over gRPC, address over HTTP and process id of a server that is ready."""
    arguments = ["--repository", str(repository), "--engine", settings.engine, "--precision", settings.precision]
    arguments += ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    sizes = ["--streams", str(settings.streams), "--max-batch", str(settings.batch)]
    if settings.workers > 1:
        sizes += ["--workers", str(settings.workers)]
    command = [sys.executable, "-m", "headwise_server", *arguments, *sizes]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=partial(_stay_on, settings.server_cores)
        ) as process,
    ):
        try:
            lines = [process.stdout.readline() if process.stdout else "" for _ in range(2)]
            if not all(line.startswith("listening on ") for line in lines):
                log.seek(0)
                raise SystemExit(f"the server did not start: {log.read()}")
            address, http_address = (line.removeprefix("listening on ").strip() for line in lines)
            with Client(address) as client:
                client.wait_until_ready(START_SECONDS)
            yield address, http_address, process.pid
        finally:
            process.terminate()


def bare(session: Session, images_NYXC: NDArray[np.uint8], threads: int, seconds: float) -> Values:
    """Images a second, time of a batch, and cost of an image, of an engine on so many threads of this process."""
    times: list[list[float]] = [[] for _ in range(threads)]
    cpu, started = time.process_time(), time.perf_counter()

    def run(times: list[float]) -> None:
        while (before := time.perf_counter()) < started + seconds:
            session.run(images_NYXC)
            times.append(time.perf_counter() - before)

    workers = [threading.Thread(target=run, args=(part,)) for part in times]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    images = len(images_NYXC) * sum(map(len, times))
    return {
        "images_per_second": images / elapsed,
        "p50_ms": 1e3 * float(np.median(np.concatenate(times))),
        "cpu_ms_per_image": 1e3 * cpu / images,
        "cores_used": cpu / elapsed,  # less than the threads: others were at work on this machine
    }


@dataclass(frozen=True)
class Load:
    """Runs `headwise load` against one server."""

    address: str
    http_address: str
    server: int
    model: ServedModel
    settings: Settings

    def __call__(self, *options: str | float, images_per_call: int) -> Values:
        """The figures of one run that matter here."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "load.json"
            where = ["--server", self.address, "--model", self.model.name, "--model-version", self.model.version]
            amount = ["--seconds", str(self.settings.seconds), "--images-per-call", str(images_per_call)]
            command = [
                sys.executable,
                "-m",
                "headwise",
                "load",
                *where,
                *amount,
                *map(str, options),
                "--json",
                str(file),
            ]
            before, counted = cpu_seconds(self.server), counts(self.http_address)
            process = subprocess.run(
                command, capture_output=True, text=True, preexec_fn=partial(_stay_on, self.settings.client_cores)
            )
            cpu, counted = cpu_seconds(self.server) - before, counts(self.http_address) - counted
            if not file.is_file():
                raise SystemExit(f"{' '.join(command)} failed: {process.stderr}")
            figures = json.loads(file.read_text("utf-8"))
        calls, latency, lag = figures["calls"], figures["latency_ms"], figures["schedule_lag_ms"]
        ok, refused = latency.get("ok", {}), latency.get("refused", {})
        return {
            "images_per_second": figures["goodput_images_per_second"],
            "offered_images_per_second": images_per_call * figures["offered_calls_per_second"],
            "p50_ms": ok.get("p50", float("nan")),
            "p99_ms": ok.get("p99", float("nan")),
            **{f"{group}_share": calls[group] / calls["scheduled"] for group in ("refused", "cancelled", "failed")},
            "not_sent_share": calls["not_sent"] / calls["scheduled"],
            "refused_p50_ms": refused.get("p50", float("nan")),
            "refused_p99_ms": refused.get("p99", float("nan")),
            "refused_in_10_ms_share": counted.refused_in_10_ms / counted.refused if counted.refused else float("nan"),
            "wasted_images": counted.wasted_images,
            "client_lag_p99_ms": lag.get("p99", float("nan")),
            "client_busy_share": figures["client_busy_share"],
            "cpu_ms_per_image": 1e3 * cpu / (images_per_call * max(1, calls["ok"])),
        }


def round_of_cases(
    sessions: dict[str, Session], images_NYXC: NDArray[np.uint8], load: Load, settings: Settings
) -> dict[str, Values]:
    """Every case once."""
    batch, streams, seconds = settings.batch, settings.streams, settings.seconds
    callers = CALLERS_PER_STREAM * streams
    values = {
        "engine": bare(sessions[CLASSIFY_GRAPH], images_NYXC, streams, seconds),
        "engine_explain": bare(sessions[EXPLAIN_GRAPH], images_NYXC, streams, seconds),
        "engine_lone": bare(sessions[CLASSIFY_GRAPH], images_NYXC[:1], 1, seconds),
        "lone": load("--closed", 1, images_per_call=1),
        "classify": load("--closed", callers, images_per_call=batch),
        "single": load("--closed", callers * batch, images_per_call=1),
    }
    saturation = values["classify"]["images_per_second"] / batch  # calls a second
    deadline = CANCEL_DEADLINE * values["classify"]["p50_ms"] / 1e3
    moderate, overload = MODERATE_SHARE * values["single"]["images_per_second"], OVERLOAD_FACTOR * saturation
    cancelling = ("--cancel-share", CANCEL_SHARE, "--deadline-seconds", deadline)
    return {
        **values,
        "moderate": load("--rate", moderate, images_per_call=1),
        "cancelling": load("--closed", callers, *cancelling, images_per_call=batch),
        "overload": load("--rate", overload, "--deadline-seconds", DEADLINE_SECONDS, images_per_call=batch),
        "explain": load("--closed", callers, "--explain-share", 1, images_per_call=batch),
    }


RATIOS = {  # name: case and figure, over case and figure
    "classify over engine, images/s": (("classify", "images_per_second"), ("engine", "images_per_second")),
    "single over engine, images/s": (("single", "images_per_second"), ("engine", "images_per_second")),
    "classify over engine, server's CPU": (("classify", "cpu_ms_per_image"), ("engine", "cpu_ms_per_image")),
    "moderate p99 over engine's lone image": (("moderate", "p99_ms"), ("engine_lone", "p50_ms")),
    "overload over classify, images/s": (("overload", "images_per_second"), ("classify", "images_per_second")),
    "cancelling over classify, images/s": (("cancelling", "images_per_second"), ("classify", "images_per_second")),
    "explain over classify, images/s": (("explain", "images_per_second"), ("classify", "images_per_second")),
    "the same of the engine": (("engine_explain", "images_per_second"), ("engine", "images_per_second")),
}


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Median, least and largest; null where any round has none."""
    if not np.isfinite(values).all():
        return dict.fromkeys(("median", "least", "largest"))
    return {"median": float(np.median(values)), "least": float(min(values)), "largest": float(max(values))}


def summaries(rounds: Sequence[dict[str, Values]]) -> dict[str, Any]:
    """Every figure of every case, and the ratios."""
    cases = {
        case: {name: summary([values[case][name] for values in rounds]) for name in rounds[0][case]}
        for case in rounds[0]
    }
    ratios = {
        name: summary([values[case][figure] / max(values[base][of], 1e-9) for values in rounds])
        for name, ((case, figure), (base, of)) in RATIOS.items()
    }
    return {"ratios": ratios, "cases": cases}


def measure(bundle: Path, settings: Settings) -> dict[str, Any]:
    """All rounds, with what they were measured on."""
    manifest = read_manifest(bundle)
    shape = (settings.batch, manifest.input.height, manifest.input.width, manifest.input.channels)
    images_NYXC = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with (
        _on_cores(settings.server_cores),
        serving(bundle.parent.parent, settings) as (address, http_address, process),
        tempfile.TemporaryDirectory() as cache,
    ):
        with Client(address) as client:
            wanted = (manifest.name, manifest.version)
            [model] = [model for model in client.list_models() if (model.name, model.version) == wanted]
            client.classify(images_NYXC)
        engine, precisions = create(model.engine), {CLASSIFY_GRAPH: model.precision, EXPLAIN_GRAPH: "f32"}
        narrower = {
            variant.precision: variant.path for variant in accepted_variants(manifest) if variant.engine == model.engine
        }
        sessions = {
            graph: engine.open_session(
                bundle / narrower.get(precision, graph), cast(Precision, precision), settings.streams, Path(cache)
            )
            for graph, precision in precisions.items()
        }
        load = Load(address, http_address, process, model, settings)
        rounds = [round_of_cases(sessions, images_NYXC, load, settings) for _ in range(settings.rounds)]
    return {
        "machine": machine(),
        "grpc": version("grpcio"),
        "python": sys.version.split()[0],
        "model": asdict(model),
        "settings": {**asdict(settings), "pinned": hasattr(os, "sched_setaffinity")},
        **summaries(rounds),
    }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def report(record: dict[str, Any]) -> list[Table]:
    """Medians of the cases, and ratios with their least and largest."""
    settings, model = record["settings"], record["model"]
    title = (
        f"{model['name']} version {model['version']} on {model['engine']} in {model['precision']}, batch "
        f"{settings['batch']}, {settings['streams']} streams, {settings['workers']} workers, n = {settings['rounds']} "
        f"rounds of {settings['seconds']:g} s, server on cores {settings['server_cores']}, client on "
        f"{settings['client_cores']}"
    )
    cases = Table(title=title, title_justify="left")
    columns = (
        "images_per_second",
        "p50_ms",
        "p99_ms",
        "refused_share",
        "refused_in_10_ms_share",
        "cpu_ms_per_image",
        "cores_used",
    )
    for column in ("case", *columns):
        first = column == "case"
        cases.add_column(column.replace("_", " "), justify="left" if first else "right", no_wrap=first)
    for case, figures in record["cases"].items():
        cases.add_row(case, *(_number(figures.get(column, {}).get("median")) for column in columns))
    ratios = Table(title="ratios within a round", title_justify="left")
    ratios.add_column("")
    ratios.add_column("median (least-largest)", justify="right")
    for name, values in record["ratios"].items():
        median, least, largest = map(_number, values.values())
        ratios.add_row(name, f"{median} ({least}-{largest})")
    return [cases, ratios]


CoresOption = Annotated[list[int] | None, typer.Option(help="May be given several times; all by default.")]


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder <repository>/<name>/<version>.")],
    engine: Annotated[str, typer.Option(help="Of the server, and bare.")] = AUTO,
    precision: Annotated[str, typer.Option(help="Of Classify, as headwise-server takes it; Explain is in f32.")] = AUTO,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, and in a call that is to fill one.")] = 8,
    streams: Annotated[int, typer.Option(min=0, help="Batches at a time; 0 for one for each core of the server.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the server.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each case.")] = 10.0,
    server_cores: CoresOption = None,
    client_cores: CoresOption = None,
    record: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure, print and record."""
    serving_cores, loading_cores = (tuple(cores or _usable_cores()) for cores in (server_cores, client_cores))
    settings = Settings(
        engine,
        precision,
        batch,
        streams or len(serving_cores),
        workers,
        rounds,
        seconds,
        serving_cores,
        loading_cores,
    )
    result = measure(bundle, settings)
    if record:
        write_json(record, result)
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    for table in report(result):
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
