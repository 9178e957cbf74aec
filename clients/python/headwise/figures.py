"""Results as figures, with matplotlib."""

import math
from typing import TYPE_CHECKING

import numpy as np

from headwise.results import Classification, Explanation
from headwise.text import shown

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

PARTS = 12  # shown; the others are added up
FOR, AGAINST = "#4878b0", "#d9822b"
COLUMNS = 32  # of a label


def _figure(width: float, height: float) -> "Figure":
    """Of that size in inches; it belongs to no window, so that nothing has to be closed.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib: pip install 'headwise[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _colours() -> "Colormap":
    """Against, nothing, for; what was removed is grey."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("parts", [AGAINST, "white", FOR]).with_extremes(bad="0.9")


def _label(text: str) -> str:
    return shown(text, COLUMNS).replace("$", r"\$")


def classification(result: Classification) -> "Figure":
    """Bars of the first labels."""
    figure = _figure(5, 0.6 + 0.3 * len(result.top))
    axes = figure.subplots()
    scores = result.top[::-1]
    axes.barh([_label(score.label) for score in scores], [100 * score.probability for score in scores], color=FOR)
    axes.set_xlim(0, 100)
    axes.set_xlabel("probability, %")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def explanation(result: Explanation, target: int) -> "Figure":
    """Bars of the largest parts, and the grid of heads."""
    score, parts = result.targets[target], result.parts(target)
    rows = [(part.name, part.weight) for part in parts[:PARTS]]
    if rest := parts[PARTS:]:
        rows.append((f"{len(rest)} others", sum(part.weight for part in rest)))
    whole, above = score.logit, ""
    if not math.isnan(parts[0].above_mean):
        whole, above = whole - float(result.logits_K.mean()), " above the mean of all labels"
    figure = _figure(9, 0.8 + 0.28 * len(rows))
    bars, grid = figure.subplots(1, 2, width_ratios=(3, 2))
    names, values = zip(*rows[::-1], strict=True)
    bars.barh(names, values, color=[FOR if value >= 0 else AGAINST for value in values])
    bars.axvline(0, color="0.5", linewidth=0.8)
    bars.set_xlabel(f"part of the logit{above}, {whole:+.2f}")
    bars.set_title(f"{_label(score.label)}, {100 * score.probability:.1f} %", fontsize=10)
    bars.spines[["top", "right"]].set_visible(False)
    encoders = 1 + max(card.encoder for card in result.head_cards)
    heads = 1 + max(card.head for card in result.head_cards)
    values_LH = np.full((encoders, heads), np.nan)
    for part in parts:
        if part.card:
            values_LH[part.card.encoder, part.card.head] = part.weight
    largest = float(np.nanmax(np.abs(values_LH), initial=1e-12))
    grid.imshow(values_LH, cmap=_colours(), vmin=-largest, vmax=largest, aspect="auto")
    for encoder, head in np.ndindex(values_LH.shape):
        value = values_LH[encoder, head]
        text = "removed" if np.isnan(value) else f"{value:+.2f}"
        grid.text(head, encoder, text, ha="center", va="center", fontsize=8)
    grid.set_xticks(range(heads))
    grid.set_yticks(range(encoders))
    grid.set_xlabel("head")
    grid.set_ylabel("encoder")
    return figure
