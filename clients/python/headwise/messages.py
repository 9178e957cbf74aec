"""Requests from images, and results from replies.

Shape suffixes: K labels, J target labels, R heads of the dense model, P other parts, Y rows and X columns of the token
grid.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwise.graphs import other_part_names
from headwise.results import Classification, Explanation, HeadCard, LabelScore, ServedModel, Timings, TokenGrid
from headwise.v1 import bundle_pb2, service_pb2


def classify_request(
    images: Iterable[service_pb2.Image], model: str, version: str, top_k: int
) -> service_pb2.ClassifyRequest:
    """A Classify request."""
    return service_pb2.ClassifyRequest(model=model, version=version, images=images, top_k=top_k)


@dataclass(frozen=True)
class Question:
    """What Explain is asked of each image."""

    labels: Sequence[str] = ()  # the targets, each once; the first `top_k` of each image where empty
    top_k: int = 0
    maps: bool = False
    causal: bool = False
    silenced_heads: Sequence[tuple[int, int]] = ()  # encoder and head

    def __post_init__(self) -> None:
        if isinstance(self.labels, str):  # whose characters would be taken for labels
            raise TypeError(f"expected a list of labels, found the string {self.labels!r}: pass [{self.labels!r}]")


def explain_request(
    images: Iterable[service_pb2.Image], model: str, version: str, asked: Question, silenced_rows: Sequence[int] = ()
) -> service_pb2.ExplainRequest:
    """An Explain request."""
    return service_pb2.ExplainRequest(
        model=model,
        version=version,
        images=images,
        labels=asked.labels,
        top_k=asked.top_k,
        maps=asked.maps,
        causal=asked.causal,
        silenced_heads=silenced_rows,
    )


def _floats(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<f4")


def _fields(message: Any, kind: type[Any]) -> Any:
    return kind(**{name: getattr(message, name) for name in kind.__dataclass_fields__})


def served_model(message: service_pb2.ServedModel) -> ServedModel:
    """Which files on which engine."""
    model: ServedModel = _fields(message, ServedModel)
    return model


def _scores(messages: Iterable[service_pb2.LabelScore]) -> tuple[LabelScore, ...]:
    return tuple(_fields(message, LabelScore) for message in messages)


def classifications(response: service_pb2.ClassifyResponse) -> list[Classification]:
    """The labels of each image of a reply."""
    model, timings = served_model(response.model), _fields(response.timings, Timings)
    return [
        Classification(_floats(message.logits), _floats(message.probabilities), _scores(message.top), model, timings)
        for message in response.classifications
    ]


def _card(message: bundle_pb2.HeadCard) -> HeadCard:
    return HeadCard(
        encoder=message.encoder,
        head=message.head,
        pruned=message.pruned,
        expert_labels=tuple(message.expert_labels),
        sharpness=message.sharpness,
        null_sharpness_mean=message.null_sharpness_mean,
        p_value=message.p_value,
        images=message.images,
    )


@dataclass(frozen=True)
class Names:
    """What the rows and columns of a model's explanations are; `sha256` of the manifest says for which model."""

    sha256: str
    labels: tuple[str, ...]
    head_cards: tuple[HeadCard, ...]
    kept_heads: tuple[int, ...]  # positions in `head_cards`, in the order of the rows
    other_parts: tuple[str, ...]

    def rows(self, heads: Sequence[tuple[int, int]]) -> list[int]:
        """The rows of heads that are named by encoder and head.

        Raises:
            ValueError: the model has no such head, or has lost it by pruning.
        """
        cards = [self.head_cards[position] for position in self.kept_heads]
        rows = {(card.encoder, card.head): row for row, card in enumerate(cards)}
        for encoder, head in heads:
            if (encoder, head) not in rows:
                known = ", ".join(f"{encoder}.{head}" for encoder, head in rows) or "none"
                raise ValueError(f"expected a head that the model has kept ({known}), found {encoder}.{head}")
        return [rows[encoder, head] for encoder, head in heads]


def names_of(response: service_pb2.GetModelResponse) -> Names:
    """The names that a model's manifest gives."""
    cards = response.manifest.head_cards
    kept = sorted((card.row, position) for position, card in enumerate(cards) if not card.pruned)
    return Names(
        sha256=response.model.sha256,
        labels=tuple(response.manifest.labels),
        head_cards=tuple(map(_card, cards)),
        kept_heads=tuple(position for _, position in kept),
        other_parts=tuple(other_part_names(response.manifest)),
    )


def _of_heads(data: bytes, names: Names, shape: tuple[int, ...], removed: float) -> NDArray[np.float32]:
    """What the rows of kept heads say, with a row for each head of the dense model."""
    kept = list(names.kept_heads)
    values = np.full((len(names.head_cards), *shape), removed, np.float32)
    values[kept] = _floats(data).reshape(len(kept), *shape)
    return values


def _extras(message: service_pb2.Explanation, names: Names, grid: TokenGrid | None, targets: int) -> dict[str, Any]:
    """What was asked for beside the split."""
    extras: dict[str, Any] = {"token_grid": grid}
    if grid is not None:
        shape = (targets, grid.rows, grid.columns)
        extras["head_maps_RJYX"] = _of_heads(message.head_maps, names, shape, 0.0)
        others = names.other_parts[:-1]  # without "biases"
        maps_PJYX = _floats(message.other_maps).reshape(len(others), *shape)
        extras["other_maps"] = dict(zip(others, maps_PJYX, strict=True))
    if message.effect_correlations:
        extras["head_effects_RJ"] = _of_heads(message.head_effects, names, (targets,), np.nan)
        extras["effect_correlations_J"] = _floats(message.effect_correlations)
    if message.silenced_logits:
        extras["silenced_logits_K"] = _floats(message.silenced_logits)
    return extras


def _explanation(message: service_pb2.Explanation, names: Names, grid: TokenGrid | None, **common: Any) -> Explanation:
    logits_K, probabilities_K = _floats(message.logits), _floats(message.probabilities)
    indices = list(message.target_indices)
    others_PJ = _floats(message.other_contributions).reshape(len(names.other_parts), len(indices))
    # Servers of older releases say no means.
    unknown = np.full(len(names.head_cards), np.nan, np.float32), np.full(len(names.other_parts), np.nan)
    mean_heads_R, mean_others_P = (
        (_of_heads(message.mean_head_contributions, names, (), 0.0), _floats(message.mean_other_contributions))
        if message.mean_other_contributions
        else unknown
    )
    return Explanation(
        logits_K=logits_K,
        probabilities_K=probabilities_K,
        targets=tuple(
            LabelScore(index, names.labels[index], float(logits_K[index]), float(probabilities_K[index]))
            for index in indices
        ),
        heads_RJ=_of_heads(message.head_contributions, names, (len(indices),), 0.0),
        head_fields_RK=_of_heads(message.head_fields, names, (len(logits_K),), np.nan),
        head_cards=names.head_cards,
        other_parts=dict(zip(names.other_parts, others_PJ, strict=True)),
        completeness_residual=message.completeness_residual,
        mean_heads_R=mean_heads_R,
        mean_other_parts=dict(zip(names.other_parts, mean_others_P.tolist(), strict=True)),
        **_extras(message, names, grid, len(indices)),
        **common,
    )


def explanations(response: service_pb2.ExplainResponse, names: Names) -> list[Explanation]:
    """The explanation of each image of a reply.

    Args:
        names: of the model whose sha256 the reply gives.
    """
    common = {
        "completeness_tolerance": response.completeness_tolerance,
        "model": served_model(response.model),
        "timings": _fields(response.timings, Timings),
    }
    grid = _fields(response.token_grid, TokenGrid) if response.HasField("token_grid") else None
    return [_explanation(message, names, grid, **common) for message in response.explanations]
