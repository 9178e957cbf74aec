"""Remove units in rounds, those first that cost least for what they save, until a goal is reached or too much is lost.

A round takes the model of the round before to `SearchSettings.round` of its cost, one small step after another; the
step that is taken is the one with the least rise of the loss over the fall of the cost [NetAdapt, arXiv:1804.03230,
with steps of a fixed size and without training in between]. Steps: 16 filters of a convolution; of an encoder a sixth
of the dense hidden nodes, a head, 8 query/key or value dimensions of every head, all units at once. Which units go is
the criterion's choice. The loss is that which fine-tuning minimises, Kullback-Leibler divergence from the dense
model's logits, on training images. Then the model is fine-tuned, and evaluated on validation images.

Rises are compared lazily: a step's last known ratio stands until it is the least, then it is computed again. Where the
loss rises the more the more is gone, that chooses the same steps with a fraction of the work.

With the criterion `auto` the first round is gone by each criterion, and the rest by that of the best [our choice].
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig, EncoderShape, count_macs
from headwise_exporter.pruning.compaction import FILTERS_MULTIPLE, MULTIPLE, NO_UNITS, KeptUnits, choose, remove_masked
from headwise_exporter.pruning.names import REACHED
from headwise_exporter.pruning.removal import Candidate, Removal, UnitStatistics, best, masked_units
from headwise_exporter.training.distillation import DistillationSettings, loss_sum
from headwise_exporter.training.evaluation import predict

HIDDEN_STEPS = 6  # in which all hidden nodes of an encoder go
STATISTICS_IMAGES = 5000  # training images that scores, means and refits are taken from


@dataclass(frozen=True)
class Cost:
    """What is to become less."""

    unit: str
    of: Callable[[CCTConfig], float]  # by the shape
    speedup: Callable[[CCTConfig], float]  # of a shape over the dense model's, measured where it can be


def macs_cost(dense: CCTConfig) -> Cost:
    """Multiply-accumulates of one image."""
    return Cost("multiply-accumulates", count_macs, lambda config: count_macs(dense) / count_macs(config))


def _less(size: int, step: int) -> int:
    return max(0, (size - 1) // step * step)


def _smaller_encoders(shape: EncoderShape, hidden_step: int) -> Iterator[tuple[str, EncoderShape]]:
    if shape.feed_forward:
        yield "hidden nodes", replace(shape, feed_forward=_less(shape.feed_forward, hidden_step))
    if shape.heads > 1:
        yield "heads", replace(shape, heads=shape.heads - 1)
    elif shape.heads:
        yield "heads", EncoderShape(0, 0, 0, shape.feed_forward)
    for name in ("query_key_dim", "value_dim"):
        if smaller := _less(getattr(shape, name), MULTIPLE):
            yield name, replace(shape, **{name: smaller})
    if shape.heads and shape.feed_forward:
        yield "all units", NO_UNITS.shape


def smaller_shapes(config: CCTConfig, dense: CCTConfig) -> Iterator[tuple[tuple[str, int], CCTConfig]]:
    """Every shape one step smaller, by the kind of step and the layer's or encoder's index.

    Some encoder keeps heads and some keeps hidden nodes.
    """
    for layer, channels in enumerate(config.conv_hidden_channels):
        if smaller := _less(channels, FILTERS_MULTIPLE):
            hidden = config.conv_hidden_channels
            yield (
                ("filters", layer),
                replace(config, conv_hidden_channels=(*hidden[:layer], smaller, *hidden[layer + 1 :])),
            )
    for index, shape in enumerate(config.encoders):
        hidden_step = -(-dense.encoders[index].feed_forward // HIDDEN_STEPS // MULTIPLE) * MULTIPLE or MULTIPLE
        for kind, smaller_shape in _smaller_encoders(shape, hidden_step):
            encoders = (*config.encoders[:index], smaller_shape, *config.encoders[index + 1 :])
            if any(other.heads for other in encoders) and any(other.feed_forward for other in encoders):
                yield (kind, index), replace(config, encoders=encoders)


@dataclass(frozen=True)
class _Damage:
    """What the loss is at a shape, at once."""

    model: CCT
    scores: dict[str, Tensor]
    statistics: UnitStatistics
    seen: LabelledImages
    taught_NK: Tensor  # logits of the dense model
    distillation: DistillationSettings

    def loss(self, config: CCTConfig) -> float:
        """Mean divergence from the dense model."""
        kept = choose(self.model, self.scores, config)
        small = remove_masked(masked_units(self.model, kept, self.statistics), kept)
        logits_NK = predict(small, self.seen)
        settings = replace(self.distillation, label_share=0.0)
        return float(loss_sum(logits_NK, torch.softmax(self.taught_NK, 1), self.taught_NK, settings)) / len(self.seen)


def shrink(
    config: CCTConfig, dense: CCTConfig, target: float, cost: Cost, loss: Callable[[CCTConfig], float]
) -> CCTConfig:
    """The shape at no more than the target's cost, reached by steps of the least rise of the loss over their saving.

    What a step would save beyond the target does not count. As far as steps go, where they do not reach the target.
    """
    now, spent, numbers = loss(config), cost.of(config), count()
    heap: list[tuple[float, int, tuple[str, int]]] = []  # ratios, of earlier shapes too
    known: set[tuple[str, int]] = set()
    fresh: dict[tuple[str, int], float] = {}  # losses after a step from the present shape
    while spent > target:
        steps = {key: smaller for key, smaller in smaller_shapes(config, dense) if cost.of(smaller) < spent}
        for key in steps.keys() - known:
            heapq.heappush(heap, (float("-inf"), next(numbers), key))
            known.add(key)
        while heap:
            _, _, key = heapq.heappop(heap)
            if key not in steps:
                known.discard(key)
                continue
            if key in fresh:
                break
            fresh[key] = loss(steps[key])
            saved = spent - max(target, cost.of(steps[key]))
            heapq.heappush(heap, ((fresh[key] - now) / saved, next(numbers), key))
        else:
            break  # no step is left
        known.discard(key)
        config = steps[key]
        now, spent = fresh[key], cost.of(config)
        fresh.clear()
    return config


def search(removal: Removal, dense: Candidate, cost: Cost) -> Candidate:
    """Rounds of removal and fine-tuning.

    Returns:
        The one of the least cost among those that lose no more than they may; the dense model where there is none.
    """
    settings, whole = removal.settings.search, cost.of(dense.model.config)
    taught_NK = predict(removal.teacher, seen := removal.train_data.sample(settings.images))

    def after_round(start: Candidate, share: float, step: str, criterion: str) -> Candidate:
        def chosen(statistics: UnitStatistics) -> KeptUnits:
            scores = removal.scores(start, statistics, criterion)
            damage = _Damage(start.model, scores, statistics, seen, taught_NK, removal.settings.distillation)
            target = shrink(start.model.config, dense.model.config, share * whole, cost, damage.loss)
            return choose(start.model, scores, target)

        removal.advance(0, f"to {share:.0%} of the {cost.unit}, by {criterion}")
        return removal.candidate(start, f"{step} of the {cost.unit}", chosen, criterion, STATISTICS_IMAGES)

    def share_of(candidate: Candidate) -> float:
        return cost.of(candidate.model.config) / whole

    aim, passed, fastest = settings.cost_kept, removal.start(), dense
    criteria = removal.settings.criterion_candidates()
    for _ in range(settings.rounds):
        share, step = settings.round * share_of(passed), f"to {settings.round:.0%} of what is left"
        if aim and aim > share:  # a goal of its own, but not in the measured figures that it may have been put right by
            share, step = aim, f"to {settings.cost_kept}"
        candidate = best([after_round(passed, share, step, criterion) for criterion in criteria])
        criteria = (candidate.criterion,)
        if not removal.passes(candidate, dense):
            between = (share_of(passed) + share_of(candidate)) / 2
            eased = after_round(passed, between, f"half as far as {step}", candidate.criterion)
            return eased if removal.passes(eased, dense) else fastest
        stuck = share_of(candidate) >= share_of(passed)
        passed = fastest = candidate
        if aim and share_of(candidate) <= aim:
            measured = cost.speedup(candidate.model.config)
            if settings.speedup is None or measured >= REACHED * settings.speedup:
                break
            aim *= measured / settings.speedup
        if stuck:
            break
    return fastest
