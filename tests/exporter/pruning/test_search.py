"""Removal in rounds: small steps, the cheapest for what it saves first, until a goal or a loss."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig, EncoderShape, cct, count_macs
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.progress import Count, uncounted
from headwise_exporter.pruning import masking, removal
from headwise_exporter.pruning.compaction import largest_difference
from headwise_exporter.pruning.provenance import provenance
from headwise_exporter.pruning.prune import Pruned, prune, pruning_images
from headwise_exporter.pruning.removal import Candidate
from headwise_exporter.pruning.search import Cost, macs_cost, shrink, smaller_shapes
from headwise_exporter.pruning.settings import PruneSettings, SearchSettings
from headwise_exporter.training.evaluation import Evaluation
from headwise_exporter.training.settings import TrainingSettings
from hypothesis import given, settings

DENSE = replace(
    cct(image_size=16, channels=1, labels=10, depth=2, heads=4, width=32, feed_forward=48),
    conv_hidden_channels=(32, 48),
)
COST = macs_cost(DENSE)
TRAINING = TrainingSettings(epochs=5, batch_size=32)
SEARCH = PruneSettings(
    layers="both", mask_by="none", criterion="magnitude", epochs=1, max_drop_points=100, search=SearchSettings(macs=0.5)
)


def test_every_step_makes_the_model_cheaper_and_leaves_heads_and_hidden_nodes() -> None:
    """However far steps go, the shape can still be built, and something is left to explain."""
    config, steps = DENSE, 0
    while smaller := [step for _, step in smaller_shapes(config, DENSE)]:
        for step in smaller:
            assert count_macs(step) < count_macs(config)
            assert any(shape.heads for shape in step.encoders)
            assert any(shape.feed_forward for shape in step.encoders)
        config, steps = smaller[-1], steps + 1
    CCT(config)
    assert steps > 5


def weights(numbers: list[int]) -> Callable[[CCTConfig], float]:
    """A loss that rises with the square of the share that is gone of each kind of unit, with these weights."""

    def loss(config: CCTConfig) -> float:
        pairs = zip(config.conv_hidden_channels, DENSE.conv_hidden_channels, strict=True)
        gone = [1 - have / had for have, had in pairs]
        for shape, dense in zip(config.encoders, DENSE.encoders, strict=True):
            values = shape.heads * (1 + shape.query_key_dim) * (1 + shape.value_dim)
            full = dense.heads * (1 + dense.query_key_dim) * (1 + dense.value_dim)
            gone += [1 - values / full, 1 - shape.feed_forward / dense.feed_forward]
        return sum(weight * share * share for weight, share in zip(numbers, gone, strict=True))

    return loss


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 1000), min_size=6, max_size=6), st.floats(0.4, 0.95))
def test_shrinking_reaches_the_target(numbers: list[int], share: float) -> None:
    """The shape costs no more than the target, whatever the units are worth."""
    loss, target = weights(numbers), share * count_macs(DENSE)
    small = shrink(DENSE, DENSE, target, COST, loss)
    assert count_macs(small) <= target
    assert loss(small) > 0


def test_what_is_missed_least_goes_first() -> None:
    """Where only the filters of the second convolution are free, they alone go."""
    small = shrink(DENSE, DENSE, 0.7 * count_macs(DENSE), COST, weights([1000, 0, 1000, 1000, 1000, 1000]))
    assert small.encoders == DENSE.encoders
    assert small.conv_hidden_channels[0] == 32
    assert small.conv_hidden_channels[1] < 48


def test_impossible_target_takes_all_that_can_go() -> None:
    """Nothing is left but one head and one step of hidden nodes somewhere, and the least of everything else."""
    small = shrink(DENSE, DENSE, 0.0, COST, weights([1] * 6))
    assert not list(smaller_shapes(small, DENSE))
    assert small.conv_hidden_channels == (16, 16)


def run(dense: CCT, measurements: Measurements, data: LabelledImages, changed: PruneSettings, **more: object) -> Pruned:
    """A pruning of the small model."""
    return prune(dense, measurements, data, data, changed, TRAINING, **more)  # type: ignore[arg-type]  # of the tests


def test_search_reaches_the_share_that_is_asked_for(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """In rounds, each smaller than the one before; the last is the result, and the bar ends full."""
    bar = support.Bar("prune", None, "images")
    pruned = run(dense, measurements, data, SEARCH, advance=bar.advance)
    costs = [count_macs(candidate.model.config) / count_macs(dense.config) for candidate in pruned.candidates]
    assert costs == sorted(costs, reverse=True)
    assert len(costs) > 1
    assert costs[-1] <= 0.5 < costs[-2]
    assert pruned.chosen is pruned.candidates[-1]
    assert pruned.speedup == pytest.approx(1 / costs[-1])
    assert bar.done == pruning_images(SEARCH, data, data)
    assert pruned.chosen.kept.config(dense.config) == pruned.chosen.model.config
    stated = provenance(pruned, SEARCH)
    assert (stated.cost, stated.macs_asked, stated.HasField("speedup_asked")) == ("multiply-accumulates", 0.5, False)
    assert [result.chosen for result in stated.candidates] == [False] * (len(costs) - 1) + [True]


@pytest.fixture
def accuracy_by_size(dense: CCT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy is the share of the operations that are left."""

    def as_large(model: CCT, images: LabelledImages, on_images: Count = uncounted) -> Evaluation:
        on_images(len(images))
        share = count_macs(model.config) / count_macs(dense.config)
        return Evaluation(torch.arange(len(images)) < len(images) * share, 1.0)

    for module in (masking, removal):
        monkeypatch.setattr(module, "evaluate", as_large)


@pytest.mark.usefixtures("accuracy_by_size")
@pytest.mark.parametrize("max_drop_points", [5, 30, 60])
def test_search_gives_the_fastest_that_loses_no_more_than_it_may(
    dense: CCT, measurements: Measurements, data: LabelledImages, max_drop_points: float
) -> None:
    """Of all candidates; half as far once more after the first that lost too much; else the dense model."""
    changed = replace(SEARCH, max_drop_points=max_drop_points, search=SearchSettings())
    pruned = run(dense, measurements, data, changed)
    passing = [c for c in pruned.candidates if changed.passes(c.validation_accuracy, pruned.dense_accuracy)]
    assert pruned.chosen is min(passing, key=lambda candidate: count_macs(candidate.model.config))
    assert pruned.chosen.validation_accuracy >= 1 - max_drop_points / 100
    if max_drop_points == 5:
        assert provenance(pruned, changed).criterion == "none"
        assert largest_difference(dense, pruned.chosen.model) == 0.0


def test_search_goes_on_until_the_measured_speedup_is_reached(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """A cost by shape that promises too much is put right by what is measured."""

    def optimistic(config: CCTConfig) -> Cost:
        return replace(macs_cost(config), speedup=lambda small: 0.5 * count_macs(config) / count_macs(small))

    changed = replace(SEARCH, search=SearchSettings(speedup=1.4, round=0.7))
    pruned = run(dense, measurements, data, changed, cost_of=optimistic)
    assert pruned.speedup >= 1.4 * 0.98
    assert count_macs(pruned.candidates[0].model.config) <= count_macs(dense.config) / 1.4
    assert len(pruned.candidates) > 1


def test_interrupted_search_goes_on_from_its_candidates(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """What was tried is not tried again, and the result is that of a search that was not interrupted."""
    whole = run(dense, measurements, data, SEARCH)
    made: list[Candidate] = []
    earlier = whole.candidates[:1]
    pruned = run(dense, measurements, data, SEARCH, earlier=earlier, on_candidate=made.append)
    assert [candidate.steps for candidate in made] == [candidate.steps for candidate in whole.candidates[1:]]
    assert pruned.candidates[0] is earlier[0]
    assert largest_difference(whole.chosen.model, pruned.chosen.model) == 0.0


def test_search_that_may_lose_less_makes_no_candidate_again(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """All that it passes is known from one that went further; it only stops earlier."""
    further = run(dense, measurements, data, replace(SEARCH, search=SearchSettings(macs=0.3)))
    made: list[Candidate] = []
    whole = replace(SEARCH, search=SearchSettings(macs=0.3, rounds=2))
    pruned = run(dense, measurements, data, whole, earlier=further.candidates, on_candidate=made.append)
    assert made == []
    assert pruned.candidates == further.candidates[:2]


def test_goals_that_are_nearly_the_same_have_candidates_of_their_own(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """What was made for one is not taken for the other."""
    goals = [replace(SEARCH, search=SearchSettings(macs=macs)) for macs in (0.9001, 0.9002)]
    first = run(dense, measurements, data, goals[0])
    made: list[Candidate] = []
    run(dense, measurements, data, goals[1], earlier=first.candidates, on_candidate=made.append)
    assert len(made) > 0


def test_auto_takes_every_criterion_in_the_first_round(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """And goes on with the best of them."""
    changed = replace(SEARCH, criterion="auto", search=SearchSettings(macs=0.6))
    pruned = run(dense, measurements, data, changed)
    first = pruned.candidates[: len(changed.criterion_candidates())]
    assert [candidate.criterion for candidate in first] == list(changed.criterion_candidates())
    best = max(first, key=lambda candidate: (candidate.validation_accuracy, -candidate.validation_loss))
    assert {candidate.criterion for candidate in pruned.candidates[len(first) :]} <= {best.criterion}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speedup": 1.0}, "expected a speedup above 1, found 1.0"),
        ({"macs": 1.5}, "expected a share of macs between 0 and 1, found 1.5"),
        ({"macs": 0.5, "speedup": 2.0}, "expected a speedup or a share of the macs, found both"),
        ({"rounds": 0}, "expected at least one round and one image, found 0"),
    ],
)
def test_search_without_sense_is_refused(changes: dict[str, float], message: str) -> None:
    """Before anything is removed, saying what was expected."""
    with pytest.raises(ValueError, match=message):
        SearchSettings(**changes)  # type: ignore[arg-type]  # of a table


def test_search_without_an_end_is_refused() -> None:
    """Neither a goal nor a loss at which to stop."""
    with pytest.raises(ValueError, match="expected an end of the search, found max_drop_points=100"):
        PruneSettings(max_drop_points=100)


def test_steps_of_an_encoder_are_of_one_kind_each() -> None:
    """A sixth of the hidden nodes, a head, 8 dimensions, or all."""
    one = replace(DENSE, conv_hidden_channels=(), encoders=(EncoderShape(2, 16, 24, 96), EncoderShape(1, 8, 8, 8)))
    steps = dict(itertools.islice(smaller_shapes(one, one), 5))
    assert {kind: config.encoders[0] for (kind, _), config in steps.items()} == {
        "hidden nodes": EncoderShape(2, 16, 24, 80),
        "heads": EncoderShape(1, 16, 24, 96),
        "query_key_dim": EncoderShape(2, 8, 24, 96),
        "value_dim": EncoderShape(2, 16, 16, 96),
        "all units": EncoderShape(0, 0, 0, 0),
    }
