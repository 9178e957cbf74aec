"""A bench as rows of text, for the terminal and for the page about a run."""

from collections.abc import Iterator
from typing import Any, Final

from headwise.v1.bundle_pb2 import Bench, BenchTiming, BenchVariant

from headwise_exporter.studies.wording import percent

TIMING_COLUMNS: Final = ("batch", "variant", "ms (quartiles)", "x dense (95 %)", "peak %")
VARIANT_COLUMNS: Final = ("variant", "accuracy %", "MACs", "file KiB", "load s", "memory MiB")
BUSY_SHARE = 0.05  # waiting for a core beyond this is worth a remark


def variant_title(variant: BenchVariant) -> str:
    """Model, engine and type."""
    return f"{variant.model}, {variant.engine} {variant.precision}"


def milliseconds(seconds: float) -> str:
    """To three digits, never in powers of ten: 0.0123 as 12.3."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.1 else f"{value:.3f}"


def thread_counts(bench: Bench) -> list[int]:
    """That were timed, in order."""
    return list(dict.fromkeys(timed.threads for timed in bench.variants[0].timings))


def batches(bench: Bench) -> list[int]:
    """That were timed, in order."""
    return list(dict.fromkeys(timed.batch for timed in bench.variants[0].timings))


def timed_at(variant: BenchVariant, threads: int, batch: int) -> BenchTiming:
    """Of one variant, with so many threads and images."""
    [timed] = [timed for timed in variant.timings if (timed.threads, timed.batch) == (threads, batch)]
    return timed


def timing_row(variant: BenchVariant, timed: BenchTiming) -> tuple[str, ...]:
    """By `TIMING_COLUMNS`."""
    interval = timed.speedup_interval
    return (
        str(timed.batch),
        variant_title(variant),
        f"{milliseconds(timed.seconds)} ({milliseconds(timed.seconds_quartile_low)}-"
        f"{milliseconds(timed.seconds_quartile_high)})",
        f"{timed.speedup:.2f} ({interval.low:.2f}-{interval.high:.2f})",
        f"{100 * timed.peak_share:.0f}" if timed.HasField("peak_share") else "-",
    )


def timing_rows(bench: Bench, threads: int) -> Iterator[list[tuple[str, ...]]]:
    """The rows of each batch size."""
    for batch in batches(bench):
        yield [timing_row(variant, timed_at(variant, threads, batch)) for variant in bench.variants]


def variant_row(variant: BenchVariant) -> tuple[str, ...]:
    """By `VARIANT_COLUMNS`."""
    memory = f"{variant.peak_memory_bytes / 2**20:,.0f}" if variant.HasField("peak_memory_bytes") else "-"
    return (
        variant_title(variant),
        percent(variant.validation_accuracy) if variant.HasField("validation_accuracy") else "-",
        f"{variant.macs / 1e6:,.2f} M",
        f"{variant.size_bytes / 1024:,.0f}",
        f"{variant.load_seconds:.2f}",
        memory,
    )


def rounds(bench: Bench, threads: int) -> str:
    """How often each was run: `1: 400, 8: 90` by batch size."""
    timings = [timed_at(bench.variants[0], threads, batch) for batch in batches(bench)]
    return ", ".join(f"batch {timed.batch}: {timed.rounds}" for timed in timings)


def machine_words(bench: Bench) -> str:
    """Processor, cores, day and versions."""
    machine = bench.machine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    return f"{machine.processor}, {machine.cores} cores, {machine.date}; {versions}"


def peak_words(bench: Bench) -> list[str]:
    """The machine's peaks: `f32, 1 thread: 66.9 Gop/s (onnxruntime)`."""
    return [
        f"{peak.precision}, {peak.threads} thread{'s' if peak.threads > 1 else ''}"
        f"{' on the GPU' if peak.device == 'gpu' else ''}: "
        f"{peak.operations_per_second / 1e9:,.1f} Gop/s ({peak.engine})"
        for peak in bench.peaks
    ]


def remarks(bench: Bench) -> list[str]:
    """What to know before the figures are believed."""
    if not bench.HasField("waiting_share") or bench.waiting_share <= BUSY_SHARE:
        return []
    return [
        f"the machine was busy: the process waited for a core {100 * bench.waiting_share:.0f} % of the time, so "
        f"latencies are too long and their order is uncertain. Measure again when it is idle."
    ]


def section(bench: Bench) -> dict[str, Any]:
    """What the page about a run says of a bench."""
    return {
        "machine": machine_words(bench),
        "peaks": peak_words(bench),
        "remarks": remarks(bench),
        "left_out": list(bench.left_out),
        "timing_columns": TIMING_COLUMNS,
        "timings": [
            (threads, rounds(bench, threads), list(timing_rows(bench, threads))) for threads in thread_counts(bench)
        ],
        "variant_columns": VARIANT_COLUMNS,
        "variants": [variant_row(variant) for variant in bench.variants],
    }
