"""Results as HTML, for notebooks: the picture, bars and the grid of heads; no script, readable in light and dark."""

import math
from html import escape

import numpy as np

from headwise.results import Classification, Explanation, Part, ServedModel, Timings
from headwise.text import shown

PARTS = 10  # shown; the others are added up
FOR, AGAINST = "#4878b0", "#d9822b"
TABLE = 'style="border-collapse:collapse;font-variant-numeric:tabular-nums"'
BAR_PIXELS = 160
MAPS, MAP_CELL_PIXELS = 3, 16  # of each target
MAPS_NOTE = (
    "Which tokens a contribution comes from: an account of the sum, not the region that matters, as tokens of later "
    "encoders have been mixed with others."
)


def _cell(text: str, align: str = "left") -> str:
    return f'<td style="text-align:{align};padding:1px 8px">{text}</td>'


def _bar(share: float, colour: str) -> str:
    return (
        f'<span style="display:inline-block;height:0.8em;width:{BAR_PIXELS * share:.0f}px;background:{colour}"></span>'
    )


def _row(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _table(caption: str, rows: list[str]) -> str:
    return f'<table {TABLE}><caption style="text-align:left"><b>{caption}</b></caption>{"".join(rows)}</table>'


def _text(value: str) -> str:
    return escape(shown(value))


def _footer(model: ServedModel, timings: Timings) -> str:
    served = f"{model.name} version {model.version} on {model.engine} in {model.precision}"
    return f"<small>{_text(served)}; server {1e3 * timings.total_seconds:.1f} ms</small>"


def classification(result: Classification) -> str:
    """The first labels with their probabilities."""
    rows = [
        _row(
            _cell(_text(score.label)),
            _cell(f"{100 * score.probability:.1f} %", "right"),
            _cell(_bar(score.probability, FOR)),
        )
        for score in result.top
    ]
    first = _text(result.top[0].label) if result.top else "no label"
    return _picture(result.picture, first) + _table(first, rows) + _footer(result.model, result.timings)


def _picture(source: str, name: str) -> str:
    style = "max-width:224px;max-height:224px;min-width:96px;image-rendering:auto"
    return f'<img src="{source}" alt="{name}" style="{style}"><br>' if source else ""


def _part_row(part: Part, largest: float) -> str:
    colour = FOR if part.weight >= 0 else AGAINST
    recognises = ", ".join(map(_text, part.card.expert_labels[:4])) if part.card else ""
    more = len(part.card.expert_labels) - 4 if part.card else 0
    return _row(
        _cell(_text(part.name)),
        _cell("" if math.isnan(part.share) else f"{100 * part.share:+.0f} %", "right"),
        _cell(f"{part.weight:+.3f}", "right"),
        _cell(_bar(abs(part.weight) / largest, colour)),
        _cell(recognises + (f" and {more} more" if more > 0 else "")),
    )


def _map(part: Part) -> str:
    """Where a part's contribution comes from, a cell for each token."""
    map_YX = np.zeros((0, 0)) if part.map_YX is None else part.map_YX
    largest = max(1e-12, float(np.abs(map_YX).max(initial=0)))

    def cell(value: float) -> str:
        title, size = f"{value:+.3f}", f"width:{MAP_CELL_PIXELS}px;height:{MAP_CELL_PIXELS}px"
        return f'<td title="{title}" style="padding:0;{size};background:{_colour(value, largest)}"></td>'

    rows = [_row(*map(cell, row_X)) for row_X in map_YX.tolist()]
    return f'<div style="display:inline-block;margin-right:12px">{_table(_text(part.name), rows)}</div>'


def _maps(parts: list[Part]) -> str:
    shown_parts = [part for part in parts if part.map_YX is not None][:MAPS]
    return "".join(map(_map, shown_parts)) + f"<p><small>{MAPS_NOTE}</small></p>" if shown_parts else ""


def _colour(value: float, largest: float) -> str:
    strength = round(100 * min(1.0, abs(value) / largest))
    return f"color-mix(in srgb, {FOR if value >= 0 else AGAINST} {strength}%, transparent)"


def _grid(result: Explanation, target: int, largest: float) -> str:
    """Encoders by heads, coloured by contribution above the mean label's; what was removed is empty."""
    rows: dict[int, list[str]] = {}
    by_head = {(part.card.encoder, part.card.head): part for part in result.parts(target) if part.card}
    for card in result.head_cards:
        part = by_head.get((card.encoder, card.head))
        value = part.weight if part else 0.0
        text = "" if card.pruned else f"{value:+.2f}"
        style = "" if card.pruned else f"background:{_colour(value, largest)}"
        title = f"encoder {card.encoder} head {card.head}{', removed' if card.pruned else ''}"
        rows.setdefault(card.encoder, []).append(
            f'<td title="{title}" style="border:1px solid #8884;padding:2px 6px;text-align:right;{style}">{text}</td>'
        )
    lines = [_row(_cell(f"encoder {encoder}"), *cells) for encoder, cells in rows.items()]
    return _table("heads", lines)


def _target(result: Explanation, target: int) -> str:
    score, parts = result.targets[target], result.parts(target)
    largest = max(abs(parts[0].weight), 1e-12)
    known = not math.isnan(parts[0].above_mean)
    headings = ("part", "share", "logits", "", "recognises over the data set")
    rows = [_row(*(f'<th style="text-align:left;padding:1px 8px">{name}</th>' for name in headings))]
    rows += [_part_row(part, largest) for part in parts[:PARTS]]
    if rest := parts[PARTS:]:
        total, share = sum(part.weight for part in rest), sum(part.share for part in rest)
        rows.append(_part_row(Part(f"{len(rest)} others", "others", total, total, share), largest))
    name = "logit above the mean of all labels" if known else "logit"
    value = score.logit - float(result.logits_K.mean()) * known
    rows.append(_row(_cell(f"<b>{name}</b>"), _cell(""), _cell(f"<b>{value:+.3f}</b>", "right"), _cell(""), _cell("")))
    title = f"{_text(score.label)}, {100 * score.probability:.1f} %"
    return _table(title, rows) + _grid(result, target, largest) + _maps(parts)


def explanation(result: Explanation) -> str:
    """For each target the largest parts, which add up to its logit, and the grid of heads."""
    targets = "".join(_target(result, target) for target in range(len(result.targets)))
    note = (
        "<p><small>Parts are direct effects, in logits: what a head does through later heads counts there. They add up "
        f"within {result.completeness_residual:.1e}. “Recognises” is of the data set, not of this image.</small></p>"
    )
    name = _text(result.targets[0].label) if result.targets else "no label"
    return _picture(result.picture, name) + targets + note + _footer(result.model, result.timings)
