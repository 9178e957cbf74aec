"""Tables for a terminal."""

import hypothesis.strategies as st
from headwise.tables import BAR_WIDTH, NAMED_LABELS, _bar, _named, _signed_bar
from hypothesis import given


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
