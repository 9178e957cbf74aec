"""What the command shows: progress bars on stderr, tables and results on stdout."""

import datetime
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from headwise.v1.bundle_pb2 import Bundle, CriterionResult, Interval, MaskResult, PruningProvenance
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column, Table
from rich.text import Text

from headwise_exporter.progress import Advance, counted
from headwise_exporter.pruning.names import ANDC, DENSE, NONE, REACHED
from headwise_exporter.studies.wording import at_once, masks, mean_percent, p_value, percent, points

if TYPE_CHECKING:  # of modules that import torch
    from headwise_exporter.export.bundle import Check
    from headwise_exporter.training.evaluation import Accuracy

out = Console()
err = Console(stderr=True)
SECONDS_TO_FIRST_LINE, SECONDS_BETWEEN_LINES = 1.0, 30.0  # of progress, in a log
WIDE = 100  # columns of a terminal


@dataclass
class _Bar:
    """How far a bar is, and how fast it goes on.

    What was done before it opened does not count for its speed, nor, once there are others, does the first step.
    """

    description: str
    total: int | None
    unit: str
    note: str = ""
    done: int = 0
    steps: int = 0
    untimed: int = 0  # of what is done
    opened_at: float = field(default_factory=time.monotonic)
    timed_from: float = field(default_factory=time.monotonic)
    advanced_at: float = field(default_factory=time.monotonic)

    def advance(self, count: int, note: str | None, resumed: bool) -> None:
        """Take in what was done, and when."""
        self.note = self.note if note is None else note
        before, self.advanced_at = self.advanced_at, time.monotonic()
        if resumed:
            self.untimed, self.timed_from = self.done + count, self.advanced_at
        elif count:
            self.steps += 1
            if self.steps == 2:
                self.untimed, self.timed_from = self.done, before
        self.done += count

    def count(self) -> str:
        if self.total is None:
            return f"{self.done:,} {self.unit}"
        return f"{self.done:,} of {counted(self.total, self.unit)}"

    def seconds(self) -> float:
        return time.monotonic() - self.opened_at

    def elapsed(self) -> str:
        return _clock(self.seconds())

    def left(self) -> str:
        """Time left at the mean speed so far: steady, and there after the first step."""
        timed = self.done - self.untimed
        if self.total is None or timed <= 0:
            return ""
        seconds = (self.advanced_at - self.timed_from) / timed * (self.total - self.done)
        return f"{_clock(max(0.0, seconds - (time.monotonic() - self.advanced_at)))} left"

    def line(self) -> str:
        """For a log."""
        said = ", ".join(filter(None, (self.count(), self.left())))
        return f"{self.description}: {'; '.join(filter(None, (said, self.note)))}"

    def last_line(self) -> str:
        return f"{self.description}: {self.count()} in {self.elapsed()}"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


class _Text(ProgressColumn):
    """Something that a bar says of itself."""

    def __init__(self, text: Callable[[_Bar], str], style: str = "") -> None:
        super().__init__(Column(no_wrap=True))
        self.text, self.style = text, style

    def render(self, task: Task) -> Text:
        return Text(self.text(task.fields["bar"]), self.style)


@contextmanager
def _drawn(bar: _Bar) -> Iterator[Callable[[], None]]:
    """The bar in place; a narrow terminal gets less of it, and of the note what fits."""
    wide = err.width >= WIDE
    texts = [_Text(_Bar.count, "progress.download"), _Text(_Bar.left, "progress.remaining")]
    if wide:
        texts.insert(1, _Text(_Bar.elapsed, "progress.elapsed"))
    bar_width = 16 if wide else 6

    def note(bar: _Bar) -> str:
        taken = [len(bar.description), bar_width, *(len(text.text(bar)) for text in texts)]
        room = err.width - sum(taken) - len(taken) - 1
        return bar.note if len(bar.note) <= room else bar.note[: max(0, room)] + "…"

    columns = (_Text(lambda bar: bar.description), BarColumn(bar_width), *texts, _Text(note))
    with Progress(*columns, console=err) as shown:
        task = shown.add_task(bar.description, total=bar.total, bar=bar)
        yield lambda: shown.update(task, completed=bar.done)
        shown.live.transient = bar.seconds() < SECONDS_TO_FIRST_LINE


@contextmanager
def _logged(bar: _Bar) -> Iterator[Callable[[], None]]:
    """Lines of a thread of its own: they come also while a single step takes long."""
    ended, lines = threading.Event(), 0

    def say(line: str) -> None:
        err.print(line, highlight=False, markup=False, soft_wrap=True)

    def go_on_saying() -> None:
        nonlocal lines
        gap = SECONDS_TO_FIRST_LINE
        while not ended.wait(gap):
            say(bar.line())
            lines, gap = lines + 1, min(2 * gap, SECONDS_BETWEEN_LINES)

    thread = threading.Thread(target=go_on_saying, daemon=True)
    thread.start()
    try:
        yield lambda: None
    finally:
        ended.set()
        thread.join()
    if lines:
        say(bar.last_line())


@contextmanager
def progress(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    """A bar on stderr (`progress`); what is over in a moment leaves no trace.

    Where stderr is no terminal: a line after a second, more at intervals that grow to half a minute, one at the end.
    """
    bar = _Bar(description, total, unit)
    with (_drawn if err.is_terminal else _logged)(bar) as update:

        def advance(count: int = 1, note: str | None = None, *, resumed: bool = False) -> None:
            bar.advance(count, note, resumed)
            update()

        yield advance


def _percent(value: float, interval: Interval) -> str:
    return f"{percent(value)} ({percent(interval.low)}-{percent(interval.high)})"


def manifest_table(manifest: Bundle) -> Table:
    """Dense, masked and pruned model side by side."""
    metrics = manifest.metrics
    table = Table(title=f"{manifest.name} version {manifest.version}, {metrics.test_images} test images")
    for column in ("model", "accuracy % (95 % interval)", "parameters", "MACs", "what it is"):
        table.add_column(column, justify="left" if column in ("model", "what it is") else "right")
    rows = (
        ("dense", "as trained", metrics.parameters_dense, metrics.macs_dense),
        (
            "masked",
            f"{100 * metrics.kept_connections:.0f} % of connections",
            metrics.parameters_dense,
            metrics.macs_dense,
        ),
        (
            "pruned",
            f"{100 * metrics.macs_pruned / metrics.macs_dense:.0f} % of MACs",
            metrics.parameters_pruned,
            metrics.macs_pruned,
        ),
    )
    for name, note, parameters, macs in rows:
        accuracy = _percent(getattr(metrics, f"{name}_accuracy"), getattr(metrics, f"{name}_accuracy_interval"))
        table.add_row(name, accuracy, f"{parameters:,}", f"{macs / 1e6:,.2f} M", note)
    return table


def tap_point_table(manifest: Bundle) -> Table:
    """Single-nodal performance along the dense model."""
    data = manifest.data
    table = Table(
        title=f"Dense model: clusters and noise per node, {data.validation_images} validation images, "
        f"threshold {manifest.pruning.threshold}"
    )
    table.add_column("encoder.tap point", no_wrap=True)
    for column in ("nodes", "probe %", "clusters", "size", "noise", "SNR"):
        table.add_column(column, justify="right", no_wrap=True)
    for tap in manifest.metrics.tap_points:
        snr = f"{tap.snr:.2f}" if tap.HasField("snr") else "-"
        figures = (f"{value:.2f}" for value in (tap.clusters_per_node, tap.cluster_size, tap.noise_per_node))
        table.add_row(
            tap.name.removeprefix("encoders."), str(tap.nodes), f"{100 * tap.probe_accuracy:.1f}", *figures, snr
        )
    return table


def _snr(tap: dict[str, Any]) -> str:
    value, spread = tap["figures"]["snr"], tap["uncertainties"].get("snr")
    shown = "-" if value is None else f"{value:.2f}"
    return shown if spread is None else f"{shown} ({spread['low']:.2f}-{spread['high']:.2f})"


def findings_table(findings: dict[str, Any]) -> Table:
    """Single-nodal performance along the model; the ratio with its bootstrap interval."""
    table = Table(
        title=f"Means over nodes: {findings['images']:,} {findings['split']} images, threshold "
        f"{findings['threshold']}, {findings['draws']} bootstrap draws",
        box=box.SIMPLE,
    )
    table.add_column("encoder.tap point", no_wrap=True)
    for column in ("probe %", "clusters", "size", "noise", "SNR (95 %)"):
        table.add_column(column, justify="right", no_wrap=True)
    for tap in findings["tap_points"]:
        names = ("clusters_per_node", "cluster_size", "noise_per_node")
        figures = (f"{tap['figures'][name]:.2f}" for name in names)
        accuracy = f"{100 * tap['probe_accuracy']:.1f}"
        table.add_row(tap["name"].removeprefix("encoders."), accuracy, *figures, _snr(tap))
    return table


def heads_table(findings: dict[str, Any]) -> Table:
    """A row for each head: how sharp against its null, and what the probe gets right by it and without it."""
    table = Table(title="Heads: labels they are experts of, sharpness against chance, probe accuracy % by them")
    columns = ("head", "labels", "sharpness", "chance", "p", "together", "alone", "without")
    for column in columns:
        table.add_column(column, justify="right")
    for encoder in findings["heads"]:
        images, together = sum(encoder["images_K"]), sum(encoder["together_K"])
        for head, sharpness in enumerate(encoder["sharpness_H"]):
            right = [together, sum(encoder["alone_HK"][head]), sum(encoder["silenced_HK"][head])]
            table.add_row(
                f"{encoder['encoder']}.{head}",
                str(encoder["expert_K"].count(head)),
                f"{sharpness:.2f}",
                f"{encoder['null_mean_H'][head]:.2f}",
                f"{encoder['p_value_H'][head]:.3f}",
                *(f"{100 * correct / images:.1f}" for correct in right),
            )
    return table


def candidate_table(manifest: Bundle) -> Table:
    """What each choice of masks and each criterion came to on validation images that no score rests on."""
    pruning = manifest.pruning
    table = Table(title=f"Pruned models on {manifest.data.validation_images} validation images")
    for column in ("masks, then removal by", "parameters", "million MACs", "accuracy", "loss", ""):
        table.add_column(column, justify="left" if column in ("masks, then removal by", "") else "right")
    base = (pruning.pruned_layers, pruning.pruned_mask_by)
    rows: list[list[tuple[str, MaskResult | CriterionResult, bool]]] = [
        [(f"masks: {masks(m.layers, m.mask_by)}", m, (m.layers, m.mask_by) == base) for m in pruning.masks],
        [(result.criterion, result, result.chosen) for result in pruning.candidates],
    ]
    for section in rows:
        for shown, result, chosen in section:
            accuracy = f"{percent(result.validation_accuracy)} %"
            size = ("", "")
            if isinstance(result, CriterionResult):
                size = (f"{result.parameters:,}", f"{result.macs / 1e6:.1f}")
            table.add_row(shown, *size, accuracy, f"{result.validation_loss:.4f}", "chosen" if chosen else "")
        table.add_section()
    table.caption = (
        f"dense: {percent(pruning.dense_validation_accuracy)} %, of which a pruned model may lose "
        f"{100 * pruning.max_drop:g} points"
    )
    if pruning.criterion == NONE:
        table.caption += "; each lost more, so nothing is removed"
    elif pruning.HasField("cost"):
        table.caption += f"; the chosen one has 1/{pruning.speedup:.2f} of the {pruning.cost}"
        table.caption += missed_goal(pruning)
    return table


def missed_goal(pruning: PruningProvenance) -> str:
    """What a search fell short of, and what would take it further, to be added to what it came to; empty if nothing."""
    asked = pruning.speedup_asked or (1 / pruning.macs_asked if pruning.macs_asked else 0.0)
    if pruning.speedup >= REACHED * asked:
        return ""
    return f", not the 1/{asked:.2f} asked for: more rounds (prune.search.rounds), or a larger --max-drop"


def _points(difference: dict[str, Any] | None) -> tuple[str, str]:
    if difference is None:
        return "", ""
    return points(difference["mean"]), p_value(max(difference["p_values"]))


def comparison_table(comparison: dict[str, Any]) -> Table:
    """A row for each share and choice of masks: means over the seeds, and McNemar's largest p of a seed."""
    settings = comparison["settings"]
    table = Table(
        title=f"{comparison['images']:,} {comparison['split']} images, mean of {settings['seeds']} seeds; differences "
        f"in points, with McNemar's largest p",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("kept", justify="right")
    table.add_column("by", no_wrap=True)
    for column in ("once %", "trained %", "to dense", "p", "to ANDC", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in comparison["results"]:
        table.add_row(
            f"{100 * result['kept']:.1f}",
            result["mask_by"],
            at_once(result),
            mean_percent(result["accuracies"]),
            *_points(None if result["mask_by"] == DENSE else result["to_dense"]),
            *_points(None if result["mask_by"] == ANDC else result["to_andc"]),
            end_section=result["mask_by"] == settings["mask_by"][-1],
        )
    return table


def subsets_table(subsets: dict[str, Any]) -> Table:
    """A row for each criterion and share: mean over the subsets, and what it is beside `taylor`."""
    settings = subsets["settings"]
    table = Table(
        title=f"Hidden nodes kept for {settings['labels']} labels, {settings['subsets']} random subsets, no training: "
        f"accuracy among them on {subsets['split']} images (all nodes: {percent(subsets['dense_accuracy'])} %)",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("by", no_wrap=True)
    for column in ("kept", "accuracy % (95 %)", "to taylor", "p (Wilcoxon)"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in subsets["results"]:
        interval = f"({percent(result['low'])}-{percent(result['high'])})"
        table.add_row(
            result["criterion"],
            f"{100 * result['share']:.0f} %",
            f"{percent(result['accuracy'])} {interval}",
            points(result["to_baseline"]),
            p_value(result["p_value"]),
            end_section=result["share"] == settings["shares"][-1],
        )
    return table


def accuracy_table(accuracies: "Sequence[Accuracy]") -> Table:
    """A row for each model."""
    table = Table(title=f"{accuracies[0].images:,} {accuracies[0].split} images")
    table.add_column("model")
    table.add_column("accuracy % (95 % interval)", justify="right")
    for one in accuracies:
        table.add_row(one.model, f"{percent(one.accuracy)} ({percent(one.interval_low)}-{percent(one.interval_high)})")
    return table


def recipe_table() -> Table:
    """Every recipe, with its data set and what its docstring says."""
    from headwise_exporter.recipes import RECIPES, describe

    table = Table(show_lines=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("data set", no_wrap=True)
    table.add_column("result")
    for name, make in RECIPES.items():
        table.add_row(name, make().dataset, Text(describe(name)))
    return table


def check_table(checks: "list[Check]") -> Table:
    """What `verify` checked."""
    table = Table()
    for column in ("check", "result", "detail"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, "[green]passed[/]" if check.passed else "[red]FAILED[/]", check.detail)
    return table


def manifest_json(manifest: Bundle) -> str:
    """The metrics, the pruning provenance and the int8 variants, for programs."""
    whole = json_format.MessageToDict(
        manifest, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return json.dumps({key: whole[key] for key in ("name", "version", "metrics", "pruning", "variants")}, indent=2)
