"""What the first screen of a run's page says, and its tables of errors, as plain values in words.

Of a bundle the manifest has test accuracies and measured speed. A run that was not exported yet has neither.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from headwise.v1.bundle_pb2 import Bench, BenchVariant, Bundle, Interval

from headwise_exporter.studies.speed import milliseconds, remarks, timed_at
from headwise_exporter.studies.validation import confusion_matrix
from headwise_exporter.studies.wording import percent, short
from headwise_exporter.training.evaluation import wilson_interval

MOST_MATRIX_LABELS = 20  # of which a table has room; a figure shows more
SHOWN_PAIRS = 20  # of labels that are confused most often
ONE_THREAD, ONE_IMAGE = 1, 1


@dataclass(frozen=True)
class Tile:
    """One figure of the model, and what to know beside it."""

    title: str
    value: str
    notes: tuple[str, ...]


def _interval(interval: Interval) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}"


def _share(correct: int, images: int) -> str:
    return f"{percent(correct / images)} % ({_interval(wilson_interval(correct, images))})"


def _of_test_images(manifest: Bundle) -> Tile:
    metrics = manifest.metrics
    return Tile(
        "Accuracy on test images",
        f"{percent(metrics.pruned_accuracy)} %",
        (
            f"95 % interval {_interval(metrics.pruned_accuracy_interval)}, {metrics.test_images:,} images",
            f"dense: {percent(metrics.dense_accuracy)} % ({_interval(metrics.dense_accuracy_interval)})",
        ),
    )


def _of_validation_images(validation: Mapping[str, Any]) -> Tile:
    correct, images = validation["models"]["pruned"]["correct"], validation["images"]
    return Tile(
        "Accuracy on validation images",
        f"{percent(correct / images)} %",
        (
            f"95 % interval {_interval(wilson_interval(correct, images))}, {images:,} images",
            f"dense: {_share(validation['models']['dense']['correct'], images)}",
            f"labelled rightly by the dense model alone: {validation['lost']:,}, by the pruned one alone: "
            f"{validation['won']:,}",
        ),
    )


def _sizes(validation: Mapping[str, Any]) -> Iterator[Tile]:
    dense, pruned = (validation["models"][name] for name in ("dense", "pruned"))
    for title, key, unit, form in (
        ("Parameters", "parameters", 1, "{:,.0f}"),
        ("Multiply-accumulates (MACs) for an image", "macs", 1e6, "{:,.2f} M"),
    ):
        more = f"dense: {form.format(dense[key] / unit)}, {dense[key] / pruned[key]:.2f} times as many"
        yield Tile(title, form.format(pruned[key] / unit), (more,))


def _measured(bench: Bench) -> Iterator[Tile]:
    dense = bench.variants[0]  # on which all ratios rest
    variants = [variant for variant in bench.variants if variant.model == "pruned"]
    same = (one for one in variants if (one.engine, one.precision) == (dense.engine, dense.precision))
    if (pruned := next(same, None)) is None:  # it was left out, with the reason
        return
    timed, of_dense = (timed_at(variant, ONE_THREAD, ONE_IMAGE) for variant in (pruned, dense))
    interval = timed.speedup_interval
    notes = [
        f"{pruned.engine} {pruned.precision}, one thread",
        f"dense: {milliseconds(of_dense.seconds)} ms; the pruned one is {timed.speedup:.2f} times as fast "
        f"({interval.low:.2f} to {interval.high:.2f})",
    ]
    notes += [remark.partition(":")[0] for remark in remarks(bench)]
    fastest = min(variants, key=lambda variant: timed_at(variant, ONE_THREAD, ONE_IMAGE).seconds)
    if fastest != pruned:
        fast = milliseconds(timed_at(fastest, ONE_THREAD, ONE_IMAGE).seconds)
        notes.append(f"fastest: {fast} ms, {fastest.engine} {fastest.precision}")
    yield Tile("Time for an image", f"{milliseconds(timed.seconds)} ms", tuple(notes))
    others = {variant.path: variant for variant in variants if variant.path != pruned.path}.values()
    sizes = (f"{variant.engine} {variant.precision}: {_kib(variant)}" for variant in others)
    yield Tile("Model file, weights included", _kib(pruned), (f"{pruned.precision}; dense: {_kib(dense)}", *sizes))


def _kib(variant: BenchVariant) -> str:
    return f"{variant.size_bytes / 1024:,.0f} KiB"


def tiles(validation: Mapping[str, Any] | None, manifest: Bundle | None) -> list[Tile]:
    """What can be said at one glance.

    Args:
        validation: record of `studies.validation`.
        manifest: of the bundle that the page belongs to.
    """
    shown = [_of_test_images(manifest)] if manifest else []
    if validation:
        shown += [_of_validation_images(validation), *_sizes(validation)]
    if manifest and manifest.HasField("bench"):
        shown += _measured(manifest.bench)
    return shown


@dataclass(frozen=True)
class LabelRow:
    """How a model does on the images of one label."""

    name: str
    images: int
    recall: str  # %, with its interval
    precision: str
    mistake: str  # the most frequent one


def _recall(correct: int, images: int) -> str:
    interval = wilson_interval(correct, images)
    return f"{100 * correct / images:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def label_rows(validation: Mapping[str, Any]) -> list[LabelRow]:
    """Label by label, those with the lowest recall first, then those without images."""
    names = validation["label_names"]
    most = {}
    for label, predicted, images in reversed(validation["mistakes"]):
        most[label] = f"{short(names[predicted])} ({images:,} of {validation['images_K'][label]:,})"
    counts = zip(validation["images_K"], validation["correct_K"], validation["predicted_K"], strict=True)
    rows = [
        (
            correct / images if images else 2.0,
            LabelRow(
                name=names[label],
                images=images,
                recall=_recall(correct, images) if images else "-",
                precision=f"{100 * correct / predicted:.1f}" if predicted else "-",
                mistake=most.get(label, "-"),
            ),
        )
        for label, (images, correct, predicted) in enumerate(counts)
    ]
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


@dataclass(frozen=True)
class Pair:
    """A label and another that its images are taken for."""

    label: str
    predicted: str
    images: int
    share: str  # % of the label's images


def confused_pairs(validation: Mapping[str, Any]) -> list[Pair]:
    """Those of the most images, the most frequent first."""
    names, images_K = validation["label_names"], validation["images_K"]
    return [
        Pair(names[label], names[predicted], images, f"{100 * images / images_K[label]:.0f}")
        for label, predicted, images in validation["mistakes"][:SHOWN_PAIRS]
    ]


def matrix(validation: Mapping[str, Any]) -> list[list[int]] | None:
    """Images by label (rows) and first label (columns); None for more labels than a table has room for."""
    if len(validation["label_names"]) > MOST_MATRIX_LABELS:
        return None
    return list(confusion_matrix(validation).tolist())


def card(validation: Mapping[str, Any] | None, manifest: Bundle | None) -> dict[str, Any]:
    """All that the page says of the model as a whole and of its errors."""
    shown: dict[str, Any] = {"tiles": tiles(validation, manifest)}
    if validation:
        shown |= {"labels": label_rows(validation), "pairs": confused_pairs(validation), "matrix": matrix(validation)}
    return shown
