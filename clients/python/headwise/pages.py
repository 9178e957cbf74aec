"""Results as HTML, for notebooks: bars and the grid of heads; no script, no request, readable in light and dark."""

from html import escape

from headwise.results import Classification, Explanation, Part, ServedModel, Timings
from headwise.text import shown

PARTS = 10  # shown; the others are added up
FOR, AGAINST = "#4878b0", "#d9822b"
TABLE = 'style="border-collapse:collapse;font-variant-numeric:tabular-nums"'
BAR_PIXELS = 160


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
    return _table(first, rows) + _footer(result.model, result.timings)


def _part_row(part: Part, largest: float) -> str:
    colour = FOR if part.contribution >= 0 else AGAINST
    recognises = ", ".join(map(_text, part.card.expert_labels[:4])) if part.card else ""
    more = len(part.card.expert_labels) - 4 if part.card else 0
    return _row(
        _cell(_text(part.name)),
        _cell(f"{part.contribution:+.3f}", "right"),
        _cell(_bar(abs(part.contribution) / largest, colour)),
        _cell(recognises + (f" and {more} more" if more > 0 else "")),
    )


def _grid(result: Explanation, target: int, largest: float) -> str:
    """Encoders by heads, coloured by contribution; what was removed is empty."""
    rows: dict[int, list[str]] = {}
    for card, contributions_J in zip(result.head_cards, result.heads_RJ, strict=True):
        value = float(contributions_J[target])
        strength = round(100 * min(1.0, abs(value) / largest))
        colour = f"color-mix(in srgb, {FOR if value >= 0 else AGAINST} {strength}%, transparent)"
        text = "" if card.pruned else f"{value:+.2f}"
        style = "" if card.pruned else f"background:{colour}"
        title = f"encoder {card.encoder} head {card.head}{', removed' if card.pruned else ''}"
        rows.setdefault(card.encoder, []).append(
            f'<td title="{title}" style="border:1px solid #8884;padding:2px 6px;text-align:right;{style}">{text}</td>'
        )
    lines = [_row(_cell(f"encoder {encoder}"), *cells) for encoder, cells in rows.items()]
    return _table("heads", lines)


def _target(result: Explanation, target: int) -> str:
    score, parts = result.targets[target], result.parts(target)
    largest = max(abs(parts[0].contribution), 1e-12)
    headings = ("part", "logit", "", "recognises")
    rows = [_row(*(f'<th style="text-align:left;padding:1px 8px">{name}</th>' for name in headings))]
    rows += [_part_row(part, largest) for part in parts[:PARTS]]
    if rest := parts[PARTS:]:
        total = sum(part.contribution for part in rest)
        rows.append(_part_row(Part(f"{len(rest)} others", "others", total), largest))
    rows.append(_row(_cell("<b>logit</b>"), _cell(f"<b>{score.logit:+.3f}</b>", "right"), _cell(""), _cell("")))
    return _table(f"{_text(score.label)}, {100 * score.probability:.1f} %", rows) + _grid(result, target, largest)


def explanation(result: Explanation) -> str:
    """For each target the largest parts, which add up to its logit, and the grid of heads."""
    targets = "".join(_target(result, target) for target in range(len(result.targets)))
    note = (
        "<p><small>Parts are direct effects, in logits: what a head does through later heads counts there. They add up "
        f"within {result.completeness_residual:.1e}. “Recognises” is of the data set, not of this image.</small></p>"
    )
    return targets + note + _footer(result.model, result.timings)
