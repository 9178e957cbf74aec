"""How figures look, and how they are written: colours, style, and fonts for any script.

Colours are Okabe and Ito's, which stay apart for colour-blind eyes; maps are `cividis`. Text stays text in the SVG,
where the reader's own fonts show every script. A label's name may be any text: it is drawn as it is, on one line, and
never read as mathematics.
"""

import io
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from headwise_exporter.studies.wording import short

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#D5C711",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
STYLES = (
    (BLACK, "o"),
    (SKY, "v"),
    (PURPLE, "^"),
    (VERMILION, "s"),
    (BLUE, "D"),
    (GREEN, "P"),
    (ORANGE, "X"),
    (YELLOW, "*"),
    ("#777777", "<"),
)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headwise",  # the same figures give the same file
    "text.parse_math": False,  # a name may have dollar signs
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
OWN_FONT, LAST_RESORT = "DejaVu Sans", "Last Resort"  # which matplotlib brings; the second has boxes alone
LABEL_INCHES = 0.16  # height of a row with a legible label name

styled = mpl.rc_context(STYLE)  # every function that draws: text takes its style when it is made


@cache
def _characters() -> dict[str, set[int]]:
    """Which characters each family of the installed fonts has."""
    families: dict[str, set[int]] = {}
    for entry in font_manager.fontManager.ttflist:
        try:
            font = FT2Font(entry.fname)
        except (OSError, RuntimeError):  # removed since they were listed, or damaged
            continue
        if font.scalable and not entry.name.startswith(LAST_RESORT):  # colour bitmaps cannot be drawn
            families.setdefault(entry.name, set()).update(font.get_charmap())
    return families


def fonts_for(text: str) -> list[str]:
    """Families that draw a text: matplotlib's own, and the installed ones that have what it lacks."""
    own = set(FT2Font(font_manager.findfont(OWN_FONT)).get_charmap())
    lacking = set(map(ord, text)) - own
    return [OWN_FONT, *(family for family, characters in _characters().items() if lacking & characters)]


def save(drawn: Figure, file: Path | IO[str], **options: Any) -> None:
    """Write a figure.

    What matplotlib's own font lacks is drawn in an installed font that has it, else as a box in a PNG; an SVG keeps it
    as text for the reader's fonts.
    """
    text = "".join(text.get_text() for text in drawn.findobj(Text) if isinstance(text, Text))
    with mpl.rc_context(STYLE | {"font.sans-serif": fonts_for(text)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        drawn.savefig(file, **options)


def svg(drawn: Figure) -> str:
    """The figure as an SVG document, which may stand in a page."""
    written = io.StringIO()
    save(drawn, written, format="svg", metadata={"Date": None})
    content = written.getvalue()
    return content[content.index("<svg") :]


def short_names(label_names: Sequence[str]) -> list[str]:
    """Names of labels as axes have room for them."""
    return [short(name) for name in label_names]


def figure(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """An empty figure of that size in inches, and its axes."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots(1, columns, **options)
