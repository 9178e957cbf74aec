"""Figures take any text as the name of a label."""

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from headwise_exporter.studies import plots
from headwise_exporter.studies.drawing import STYLE, fonts_for, save, svg
from headwise_exporter.studies.pictures import pictures
from headwise_exporter.studies.report import write_report
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

RECORD: dict[str, Any] = json.loads((Path(__file__).parents[3] / "results/digits/study.json").read_text("utf-8"))
NAMES = [
    "a$_$b",
    "$\\frac{a}$",
    "two\nlines\tand 100 %_x^2",
    "\x00\x1b[31m",
    "caf\udce9",  # of a folder whose name is not UTF-8
    "<script>alert(1)</script>{{ 7 * 7 }}",
    "向日葵 ヒマワリ 🌻",
    "شجرة التفاح सूरजमुखी",
    "[/bold]" * 30,
    "long" * 50,
]


def with_names(names: list[str]) -> list[Figure]:
    """Every figure that shows names."""
    return [
        plots.expertise_map(RECORD["findings"], names),
        plots.snp_matrices(RECORD["examples"], names),
        plots.label_changes(RECORD["label_changes"]["changes_K"], names, "changes"),
        plots.confusion_map(np.arange(100).reshape(10, 10), names),
    ]


@example(NAMES)
@given(st.lists(st.text(st.characters(), max_size=300), min_size=10, max_size=10))
@settings(max_examples=10)
def test_figures_are_drawn_with_any_names(names: list[str]) -> None:
    """As an SVG that is XML and as a PNG, without a warning."""
    for drawn in with_names(names):
        content = svg(drawn)
        assert ElementTree.fromstring(content.encode()).tag.endswith("svg")
        save(drawn, io.BytesIO(), format="png")


def test_other_installed_fonts_draw_what_matplotlibs_own_lacks() -> None:
    """A circled letter, which STIX has, looks unlike one that no font has."""
    pixels = []
    for name in ("\u24b6", "\U000f0000"):
        file = io.BytesIO()
        save(plots.expertise_map(RECORD["findings"], [name] * 10), file, format="png")
        pixels.append(file.getvalue())
    assert pixels[0] != pixels[1]
    assert "STIXGeneral" in fonts_for("\u24b6")
    assert fonts_for("plain \U000f0000") == ["DejaVu Sans"]


def test_labels_that_are_confused_stand_together() -> None:
    """Whatever their order is; every name is on both axes."""
    confusion_KK = np.eye(6, dtype=np.int64) * 10
    for label in range(3):
        confusion_KK[label, label + 3] = 5
    axes = plots.confusion_map(confusion_KK, list("abcdef")).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert sorted("".join(sorted(names[first : first + 2])) for first in (0, 2, 4)) == ["ad", "be", "cf"]
    assert names == [text.get_text() for text in axes.get_xticklabels()]


def test_names_stay_text_in_the_svg() -> None:
    """In every script, so that the reader's fonts show them; what is long is shortened."""
    content = "".join(ElementTree.fromstring(svg(with_names(NAMES)[0])).itertext())
    for expected in (
        "a$_$b",
        "向日葵 ヒマワリ 🌻",
        "شجرة التفاح सूरजमुखी",
        "caf\ufffd",
        "longlonglonglo…nglonglonglong"[:8],
    ):
        assert expected in content
    assert "long" * 10 not in content


def test_no_text_of_a_figure_is_read_as_mathematics() -> None:
    """Of any function that draws."""
    for picture in pictures(RECORD):
        with mpl.rc_context(STYLE):  # matplotlib makes marks of an axis when it is asked for them
            texts = picture.draw().findobj(Text)
        assert texts
        assert not any(text.get_parse_math() for text in texts)


def test_figures_keep_their_layout_with_long_names() -> None:
    """The drawing keeps more than an inch beside 200 characters of any script."""
    for name in ("name " * 40, "向日葵" * 70, "सूरजमुखी" * 25):
        for drawn in with_names([name] * 10):
            svg(drawn)
            widths = [axes.get_position().width * drawn.get_figwidth() for axes in drawn.axes]
            assert max(widths) > 1.2


def test_few_heads_leave_room_for_the_titles() -> None:
    """Of two encoders with two heads each."""
    heads = [
        {"encoder": number, "recognising_nodes_HK": encoder["recognising_nodes_HK"][:2]}
        for number, encoder in enumerate(RECORD["findings"]["heads"][:2])
    ]
    drawn = plots.expertise_map({"heads": heads}, NAMES)
    svg(drawn)
    renderer = drawn._get_renderer()  # nothing public has it
    for axes in drawn.axes:
        for title in (axes.xaxis.label, axes.yaxis.label):
            extent = title.get_window_extent(renderer)
            assert extent.width == 0 or (extent.x0 >= 0 and extent.x1 <= drawn.bbox.width)


@pytest.mark.parametrize("place", ["label_names", "name"])
def test_report_is_written_with_any_names(tmp_path: Path, place: str) -> None:
    """The page has no markup of theirs, and says them."""
    page = write_report(tmp_path, RECORD | {place: NAMES if place == "label_names" else "".join(NAMES)})
    content = page.read_text("utf-8")
    assert "<script" not in content
    assert "向日葵 ヒマワリ 🌻" in content
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in content or place == "label_names"
