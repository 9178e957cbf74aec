"""Results as tables for a terminal."""

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from headwise.results import Classification, Explanation, LabelScore, Part, ServedModel, Timings
from headwise.text import shown

BAR_WIDTH = 16
SHADES = "·░▒▓█"
NAMED_LABELS = 4  # of a head; where there are at least two more, they are counted


def _bar(share: float) -> str:
    """A bar for a share in 0..1."""
    return "█" * round(share * BAR_WIDTH)


def _signed_bar(share: float) -> Text:
    """A bar for a share in -1..1: to the right of the middle for, to the left against."""
    half = BAR_WIDTH // 2
    length = min(half, round(abs(share) * half))
    left, right = (" " * half, "█" * length) if share >= 0 else ("█" * length, "")
    return Text(f"{left:>{half}}│{right:<{half}}", style=_colour(share))


def _colour(value: float) -> str:
    return "blue" if value >= 0 else "dark_orange"


def _shade(share: float) -> str:
    """A character for a share in 0..1."""
    return SHADES[min(len(SHADES) - 1, int(share * len(SHADES)))]


def _named(labels: Sequence[str]) -> str:
    """The first labels by name, and how many more there are."""
    labels = [shown(label) for label in labels]
    more = len(labels) - NAMED_LABELS
    if more <= 1:
        return ", ".join(labels) or "none"
    return f"{', '.join(labels[:NAMED_LABELS])} and {more} more"


def _title(text: str) -> Text:
    """Any text, whose brackets are no markup."""
    return Text(shown(text), style="table.title")


def footer(model: ServedModel, timings: Timings) -> str:
    """Who answered, and how long it took."""
    return (
        f"{model.name} version {model.version} on {model.engine} in {model.precision}, sha256 {model.sha256[:12]}; "
        f"server {1e3 * timings.total_seconds:.1f} ms (queue {1e3 * timings.queue_seconds:.1f}, "
        f"inference {1e3 * timings.inference_seconds:.1f})"
    )


def classification(title: str, result: Classification) -> Table:
    """The first labels of one image."""
    table = Table(title=_title(title), title_justify="left")
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("", min_width=BAR_WIDTH)
    for score in result.top:
        table.add_row(Text(shown(score.label)), f"{100 * score.probability:.1f} %", _bar(score.probability))
    return table


def _share(part: Part) -> str:
    return "" if math.isnan(part.share) else f"{100 * part.share:+.0f} %"


def _parts(title: str, parts: Sequence[Part], shown_parts: int, last: tuple[str, float, str]) -> Table:
    """The largest parts of a sum, the others together, and the sum itself, of which a part's share is told.

    Args:
        last: what the sum is called, the sum, and a note.
    """
    table = Table(title=_title(title), title_justify="left")
    table.add_column("part", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("logits", justify="right", no_wrap=True)
    causal = not all(math.isnan(part.effect) for part in parts)
    if causal:  # two numbers side by side, and no room for bars in a narrow terminal
        table.add_column("fall", justify="right", no_wrap=True)
    else:
        table.add_column(f"{'against':>{BAR_WIDTH // 2}}│for", min_width=BAR_WIDTH + 1, no_wrap=True)
    table.add_column("recognises over the data set")
    largest = max(1e-12, *(abs(part.weight) for part in parts))

    def row(part: Part) -> None:
        fall = Text("" if math.isnan(part.effect) else f"{part.effect:+.3f}")
        numbers = [
            Text(_share(part)),
            Text(f"{part.weight:+.3f}"),
            fall if causal else _signed_bar(part.weight / largest),
        ]
        table.add_row(Text(part.name), *numbers, Text(_named(part.card.expert_labels) if part.card else ""))

    for part in parts[:shown_parts]:
        row(part)
    if rest := parts[shown_parts:]:
        total = sum(part.weight for part in rest)
        shares = sum(part.share for part in rest)
        row(Part(f"{len(rest)} other part{'s' * (len(rest) > 1)}", "others", total, total, shares))
    table.add_section()
    name, value, note = last
    table.add_row(name, "", f"{value:+.3f}", "", note)
    return table


def explanation(title: str, result: Explanation, target: int, shown_parts: int) -> Table:
    """The parts that spoke for and against one target of one image, the largest first.

    They add up to its logit above the mean of all labels' logits.
    """
    score = result.targets[target]
    removed = sum(card.pruned for card in result.head_cards)
    parts = result.parts(target)
    note = f"{removed} heads pruned away" if removed else ""
    if math.isnan(parts[0].above_mean):  # from a server that says no means
        last = ("logit", score.logit, note)
    else:
        last = ("logit above mean", score.logit - float(result.logits_K.mean()), note)
    return _parts(f"{title}: {score.label} ({100 * score.probability:.1f} %)", parts, shown_parts, last)


def contrast(title: str, result: Explanation, target: int, against: int, shown_parts: int) -> Table:
    """Why one target rather than another; the parts add up to the difference of their logits."""
    one, other = result.targets[target], result.targets[against]
    scores = [f"{score.label} ({100 * score.probability:.1f} %)" for score in (one, other)]
    parts = result.contrast(target, against)
    return _parts(
        f"{title}: {' rather than '.join(scores)}", parts, shown_parts, ("difference", one.logit - other.logit, "")
    )


def token_map(part: Part) -> Group:
    """A part's map, a cell for each token: for in blue, against in orange, the denser the more."""
    map_YX = np.zeros((0, 0)) if part.map_YX is None else part.map_YX
    largest = max(1e-12, float(np.abs(map_YX).max(initial=0)))
    rows = [
        Text("").join(Text(2 * _shade(abs(value) / largest), _colour(value)) for value in row_X)
        for row_X in map_YX.tolist()
    ]
    return Group(_title(f"{part.name}: where its {part.contribution:+.3f} come from"), *rows)


def silenced(targets: Sequence[LabelScore], silent: Sequence[LabelScore]) -> Table:
    """What silent heads do to the targets.

    Args:
        silent: the same labels with the heads silent.
    """
    table = Table(title="with the heads silent", title_justify="left")
    for column in ("label", "logit", "silent", "probability", "silent"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for score, without in zip(targets, silent, strict=True):
        logits = (f"{score.logit:+.3f}", f"{without.logit:+.3f}")
        table.add_row(
            Text(shown(score.label)), *logits, *(f"{100 * each.probability:.1f} %" for each in (score, without))
        )
    return table


def models(served: Sequence[ServedModel]) -> Table:
    """The models that a server serves."""
    table = Table()
    for column in ("model", "version", "engine", "precision", "sha256"):
        table.add_column(column)
    for model in served:
        table.add_row(model.name, model.version, model.engine, model.precision, model.sha256[:12])
    return table
