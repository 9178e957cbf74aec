"""The README's picture and table, from a recorded reply."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
import explain_photo

RECORD = explain_photo.read_record(explain_photo.RECORD)


@pytest.mark.parametrize("target", [0, 1])
def test_bars_add_up_to_the_logit_above_the_mean(target: int) -> None:
    """Every part of the model is in the picture, by itself or among the others."""
    explanation = explain_photo.explanation(RECORD)
    axes = explain_photo.draw(explanation).axes[1 + target]
    above = explanation.targets[target].logit - float(explanation.logits_K.mean())
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(above, abs=1e-4)


def test_picture_has_the_photo_and_a_panel_for_each_label() -> None:
    """In the order of the labels, each with its probability."""
    figure = explain_photo.draw(explain_photo.explanation(RECORD))
    assert len(figure.axes) == 1 + len(explain_photo.LABELS)
    for axes, label in zip(figure.axes[1:], explain_photo.LABELS, strict=True):
        assert axes.get_title().startswith(label)


def test_table_replaces_what_stands_between_the_marks() -> None:
    """And nothing else of the page."""
    page = f"before\n{explain_photo.BEGIN}old\n{explain_photo.END}\nafter\n"
    written = explain_photo.with_table(page, "new\n")
    assert written == f"before\n{explain_photo.BEGIN}```text\nnew\n```\n{explain_photo.END}\nafter\n"
    assert explain_photo.with_table(written, "new\n") == written
