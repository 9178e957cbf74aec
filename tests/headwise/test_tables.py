"""Tables for a terminal."""

import hypothesis.strategies as st
from explained import explanation, mapped
from headwise import tables
from headwise.tables import BAR_WIDTH, NAMED_LABELS, _bar, _named, _signed_bar
from hypothesis import given
from rich.console import Console, RenderableType


def text(table: RenderableType) -> str:
    """As a wide terminal shows it."""
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_explanation_shows_all_parts_together_the_largest_first() -> None:
    """Share, logits above the mean label's, and what a head recognises over the data set; the others are counted."""
    shown = text(tables.explanation("a.png", explanation(), 0, 2))
    order = [
        shown.index(name) for name in ("encoder 0 feed-forward", "encoder 0 head 1", "5 other parts", "logit above")
    ]
    assert order == sorted(order)
    for expected in ("recognises over the data set", "+3.000", "-1.000", "1 heads pruned away", "iris, iris"):
        assert expected in shown
    assert "fall" not in shown


def test_falls_stand_beside_contributions_where_heads_were_removed() -> None:
    """Parts that are no heads have none."""
    shown = text(tables.explanation("a.png", mapped(), 0, 7))
    assert "fall" in shown
    [line] = [line for line in shown.splitlines() if "encoder 0 head 0" in line]
    assert "+0.500" in line


def test_contrast_names_both_labels_and_adds_up_to_the_difference() -> None:
    """One label rather than another."""
    shown = text(tables.contrast("a.png", explanation(), 0, 1, 4))
    assert "<b>rose</b> (50.0 %) rather than tiger lily (25.0 %)" in shown
    assert "difference" in shown
    assert "+1.000" in shown


def test_map_has_a_cell_for_each_token() -> None:
    """Two rows of three, all of them equal here."""
    [part] = [part for part in mapped().parts(0) if part.name == "encoder 0 feed-forward"]
    lines = text(tables.token_map(part)).splitlines()
    assert [line.strip() for line in lines[1:]] == ["██████"] * 2


def test_silent_heads_show_logits_and_probabilities_before_and_after() -> None:
    """For each target."""
    shown = text(tables.silenced(mapped().targets, mapped().silenced()))
    assert "tiger lily" in shown
    assert "+2.000" in shown
    assert "+3.000" in shown


@given(st.floats(0, 1))
def test_bar_is_as_long_as_its_share(share: float) -> None:
    """Empty for nothing, full for all."""
    assert len(_bar(share)) == round(share * BAR_WIDTH)


@given(st.floats(-1, 1))
def test_signed_bar_grows_from_the_middle(share: float) -> None:
    """Against to the left, for to the right, always of one width."""
    bar = _signed_bar(share).plain
    left, right = bar.split("│")
    assert len(left) == len(right) == BAR_WIDTH // 2
    length = round(abs(share) * BAR_WIDTH / 2)
    assert (left.count("█"), right.count("█")) == ((0, length) if share >= 0 else (length, 0))
    assert left.strip() == "█" * left.count("█")
    assert left.endswith("█") or "█" not in left


@given(st.integers(0, 12))
def test_first_labels_are_named_and_the_others_counted(count: int) -> None:
    """So that a row stays readable with a hundred labels."""
    labels = [f"label{number}" for number in range(count)]
    shown = _named(labels)
    counted = count > NAMED_LABELS + 1  # one more label takes no more room than its count
    assert shown.count("label") == (NAMED_LABELS if counted else count)
    assert shown.endswith(f" and {count - NAMED_LABELS} more") == counted
    assert (shown == "none") == (count == 0)
