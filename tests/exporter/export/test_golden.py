"""The golden set: inputs that say something, and that no engine's rounding can turn."""

import hypothesis.strategies as st
import numpy as np
from headwise_exporter.export.golden import silenced_of, targets_of, tolerance_reduced
from hypothesis import given, settings


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 99), st.floats(0.1, 30))
def test_a_rank_is_a_target_only_where_the_order_is_sure(labels: int, images: int, seed: int, scale: float) -> None:
    """With each logit off by what a narrower type may be off, a rank is still that of the same label."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, scale, (images, labels)) ** 3
    targets = targets_of(logits)
    assert targets.shape == (images, min(3, labels))
    assert targets.dtype == np.int64
    assert ((-labels <= targets) & (targets < labels)).all()
    off = tolerance_reduced(logits) * random.choice([-1, 1], logits.shape)
    before, after = (np.argsort(-values, axis=1, kind="stable") for values in (logits, logits + off))
    for row in range(images):
        for rank in -1 - targets[row][targets[row] < 0]:
            assert before[row, rank] == after[row, rank]


def test_targets_are_ranks_and_positions() -> None:
    """Where labels are well apart, the first are ranks and the last is a label, another one for each image."""
    logits = np.random.default_rng(0).permuted(np.tile(10.0 * np.arange(5), (4, 1)), axis=1)
    assert targets_of(logits).tolist() == [[-1, -2, 2], [-1, -2, 3], [-1, -2, 4], [-1, -2, 0]]


def test_silent_are_none_each_head_alone_and_sets() -> None:
    """Over the images; always the same."""
    silenced = silenced_of(32, 4)
    assert not silenced[0].any()
    assert set(silenced.sum(1)) > {0, 1}
    assert (silenced[silenced.sum(1) == 1]).any(0).all()
    assert len({row.tobytes() for row in silenced}) > 10
    assert np.array_equal(silenced, silenced_of(32, 4))
