"""Time graphs in turn on the runtimes of this machine, as a `headwise.v1.Bench`.

For each number of threads all sessions are open at once, and for each batch size they take turns. Every one is compared
with the first, the baseline, in the same rounds. A graph that would run on another provider or in another type, or that
gives wrong answers, is not timed: it is left out with the reason, or an error where it was asked for.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from headwise.cores import usable_cores
from headwise.v1 import bundle_pb2 as pb
from numpy.typing import NDArray

from headwise_exporter.bench.fresh import footprint
from headwise_exporter.bench.peaks import fastest
from headwise_exporter.bench.sessions import Opened, Precision, Run, SessionError, check_types, device, open_session
from headwise_exporter.bench.timing import Waiting, interleaved_for, spread
from headwise_exporter.machine import machine
from headwise_exporter.progress import Advance, Progress, silent

DENSE, PRUNED = "dense", "pruned"
BATCHES: Final = (1, 8, 32)


@dataclass(frozen=True)
class BenchSettings:
    """What is timed, and for how long."""

    batches: tuple[int, ...] = BATCHES  # images
    threads: tuple[int, ...] = ()  # of a run; one, and all that the process may use, where none are given
    seconds: float = 5.0  # for each number of threads and batch size, all variants together, at least 9 rounds

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """`threads`, or one and all."""
        return self.threads or tuple(sorted({1, usable_cores()}))


@dataclass(frozen=True)
class Candidate:
    """A graph to time on one engine in one precision."""

    model: str
    graph: Path
    path: str  # of the graph in the bundle; empty where it is not there
    engine: str
    precision: Precision
    macs: float  # for one image
    # Checks what the graph answers, raising SessionError, and gives its accuracy on validation images, if known.
    accuracy: Callable[[Run], float | None]
    required: bool  # left out is an error

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.model}, {self.engine} {self.precision}"


def graph_bytes(graph: Path) -> int:
    """Size of a graph and of the weights that it refers to, each piece once.

    OpenVINO's own format has them in a `.bin` file of the same name.
    """
    if graph.suffix == ".xml":
        return graph.stat().st_size + graph.with_suffix(".bin").stat().st_size
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    pieces = set()
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            pieces.add((entries["location"], int(entries.get("offset", 0)), int(entries["length"])))
    return graph.stat().st_size + sum(length for *_, length in pieces)


def _described(candidate: Candidate, accuracy: float | None, shape: Sequence[int]) -> pb.BenchVariant:
    taken = footprint(candidate.graph, candidate.engine, candidate.precision, 1, shape)
    return pb.BenchVariant(
        model=candidate.model,
        path=candidate.path,
        engine=candidate.engine,
        precision=candidate.precision,
        macs=candidate.macs,
        size_bytes=graph_bytes(candidate.graph),
        load_seconds=taken.load_seconds,
        peak_memory_bytes=taken.peak_memory_bytes,
        validation_accuracy=accuracy,
    )


def _open(candidate: Candidate, threads: int) -> Opened:
    opened = open_session(candidate.graph, candidate.engine, candidate.precision, threads)
    check_types(candidate.graph, candidate.engine, candidate.precision, opened)
    return opened


def _admit(
    candidates: Sequence[Candidate], largest: Sequence[int], result: pb.Bench, advance: Advance
) -> list[Candidate]:
    """Those that run here and answer rightly, described in the result; why others do not is put there as well."""
    admitted = []
    for candidate in candidates:
        advance(0, candidate.title)
        try:
            described = _described(candidate, candidate.accuracy(_open(candidate, 1).run), largest)
        except SessionError as error:
            if candidate.required:
                raise
            result.left_out.append(f"{candidate.title}: {' '.join(str(error).split())}")
        else:
            result.variants.append(described)
            admitted.append(candidate)
        advance()
    return admitted


def _measure_peaks(candidates: Sequence[Candidate], threads: int, result: pb.Bench, advance: Advance) -> None:
    for place, precision in sorted({(device(candidate.engine), candidate.precision) for candidate in candidates}):
        advance(0, f"peak in {precision}")
        engines = sorted({candidate.engine for candidate in candidates if device(candidate.engine) == place})
        if reached := fastest(engines, precision, threads):
            engine, operations = reached
            result.peaks.append(
                pb.MachinePeak(
                    device=place,
                    precision=precision,
                    threads=threads,
                    engine=engine,
                    operations_per_second=operations,
                )
            )


def timing(times: NDArray[np.float64], column: int, threads: int, batch: int) -> pb.BenchTiming:
    """Figures of one variant from the times of all (rounds, variants), the baseline first."""
    seconds, speedup = spread(times[:, column]), spread(times[:, 0] / times[:, column])
    return pb.BenchTiming(
        threads=threads,
        batch=batch,
        rounds=len(times),
        seconds=seconds.median,
        seconds_quartile_low=seconds.quartile_low,
        seconds_quartile_high=seconds.quartile_high,
        speedup=speedup.median,
        speedup_interval=pb.Interval(low=speedup.low, high=speedup.high),
    )


def peak_share(result: pb.Bench, variant: pb.BenchVariant, timed: pb.BenchTiming) -> float | None:
    """Operations a second over the machine's peak in that type, with as many threads; None where there is no peak."""
    wanted = (device(variant.engine), variant.precision, timed.threads)
    peaks = (peak for peak in result.peaks if (peak.device, peak.precision, peak.threads) == wanted)
    peak = next(peaks, None)
    return peak and 2 * variant.macs * timed.batch / timed.seconds / peak.operations_per_second


def bench(
    candidates: Sequence[Candidate],
    image_shape: tuple[int, int, int],
    settings: BenchSettings,
    progress: Progress = silent,
) -> pb.Bench:
    """Time every candidate that runs here; the first is the baseline.

    Args:
        image_shape: height, width and channels of the uint8 images.

    Raises:
        SessionError: one that is required does not run here as it should.
    """
    described: dict[str, Any] = machine()
    result = pb.Bench(machine=pb.BenchMachine(**described))
    generator, waiting = np.random.default_rng(0), Waiting()
    steps = len(candidates) + len(settings.thread_counts) * (1 + len(settings.batches))
    with progress("bench", steps, "measurements") as advance:
        admitted = _admit(candidates, (max(settings.batches), *image_shape), result, advance)
        for threads in settings.thread_counts:
            _measure_peaks(admitted, threads, result, advance)
            advance()
            runs = [_open(candidate, threads).run for candidate in admitted]
            for batch in settings.batches:
                advance(0, f"batch {batch}, {threads} threads")
                images = generator.integers(0, 256, (batch, *image_shape), dtype=np.uint8)
                with waiting.counted() if threads == 1 else nullcontext():
                    times = interleaved_for(runs, images, settings.seconds)
                for column, variant in enumerate(result.variants):
                    variant.timings.append(timing(times, column, threads, batch))
                    if (share := peak_share(result, variant, variant.timings[-1])) is not None:
                        variant.timings[-1].peak_share = share
                advance()
    if waiting.wall_seconds and not any(device(candidate.engine) == "gpu" for candidate in admitted):
        result.waiting_share = waiting.share
    return result
