"""Results as tables for a terminal."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from headwise.results import Classification, Explanation, ServedModel, Timings
from headwise.text import shown

BAR_WIDTH = 16
NAMED_LABELS = 4  # of a head; where there are at least two more, they are counted


def _bar(share: float) -> str:
    """A bar for a share in 0..1."""
    return "█" * round(share * BAR_WIDTH)


def _signed_bar(share: float) -> Text:
    """A bar for a share in -1..1: to the right of the middle for, to the left against."""
    half = BAR_WIDTH // 2
    length = min(half, round(abs(share) * half))
    left, right = (" " * half, "█" * length) if share >= 0 else ("█" * length, "")
    return Text(f"{left:>{half}}│{right:<{half}}", style="blue" if share >= 0 else "dark_orange")


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


def explanation(title: str, result: Explanation, target: int, heads: int) -> Table:
    """The heads that spoke for and against one target of one image; the column adds up to the logit."""
    score = result.targets[target]
    table = Table(title=_title(f"{title}: {score.label} ({100 * score.probability:.1f} %)"), title_justify="left")
    table.add_column("part", no_wrap=True)
    table.add_column("logit", justify="right", no_wrap=True)
    table.add_column(f"{'against':>{BAR_WIDTH // 2}}│for", min_width=BAR_WIDTH + 1, no_wrap=True)
    table.add_column("expert of")
    contributions_R = result.heads_RJ[:, target]
    others = {name: float(values_J[target]) for name, values_J in result.other_parts.items()}
    largest = max(float(np.abs(contributions_R).max(initial=0)), *(abs(value) for value in others.values()), 1e-12)

    def row(name: str, value: float, note: str = "") -> None:
        table.add_row(Text(name), f"{value:+.3f}", _signed_bar(value / largest), Text(note))

    kept = [index for index, card in enumerate(result.head_cards) if not card.pruned]
    ordered = sorted(kept, key=lambda index: -abs(contributions_R[index]))
    for index in ordered[:heads]:
        card = result.head_cards[index]
        row(f"encoder {card.encoder} head {card.head}", float(contributions_R[index]), _named(card.expert_labels))
    if rest := ordered[heads:]:
        row(f"{len(rest)} other head{'s' * (len(rest) > 1)}", float(contributions_R[rest].sum()))
    table.add_section()
    for name, value in others.items():
        row(name.replace("encoders.", "encoder ").replace(".feed_forward", " feed-forward"), value)
    table.add_section()
    removed = len(result.head_cards) - len(kept)
    table.add_row("logit", f"{score.logit:+.3f}", "", f"{removed} heads pruned away" if removed else "")
    return table


def models(served: Sequence[ServedModel]) -> Table:
    """The models that a server serves."""
    table = Table()
    for column in ("model", "version", "engine", "precision", "sha256"):
        table.add_column(column)
    for model in served:
        table.add_row(model.name, model.version, model.engine, model.precision, model.sha256[:12])
    return table
