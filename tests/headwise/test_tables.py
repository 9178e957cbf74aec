"""Tables for a terminal."""

import hypothesis.strategies as st
from headwise.tables import BAR_WIDTH, _bar, _signed_bar
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
