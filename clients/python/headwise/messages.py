"""Requests from images, and results from replies.

Shape suffixes: K labels, J target labels, R heads of the dense model, P other parts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwise.graphs import other_part_names
from headwise.results import Classification, Explanation, HeadCard, LabelScore, ServedModel, Timings
from headwise.v1 import bundle_pb2, service_pb2


def classify_request(
    images: Iterable[service_pb2.Image], model: str, version: str, top_k: int
) -> service_pb2.ClassifyRequest:
    """A Classify request."""
    return service_pb2.ClassifyRequest(model=model, version=version, images=images, top_k=top_k)


def explain_request(
    images: Iterable[service_pb2.Image], model: str, version: str, labels: Sequence[str], top_k: int
) -> service_pb2.ExplainRequest:
    """An Explain request.

    Raises:
        TypeError: the labels are one string, whose characters would be taken for labels.
    """
    if isinstance(labels, str):
        raise TypeError(f"expected a list of labels, found the string {labels!r}: pass [{labels!r}]")
    return service_pb2.ExplainRequest(model=model, version=version, images=images, labels=labels, top_k=top_k)


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


def _explanation(message: service_pb2.Explanation, names: Names, **common: Any) -> Explanation:
    logits_K, probabilities_K = _floats(message.logits), _floats(message.probabilities)
    indices, heads, kept = list(message.target_indices), len(names.head_cards), list(names.kept_heads)
    heads_RJ = np.zeros((heads, len(indices)), np.float32)
    fields_RK = np.full((heads, len(logits_K)), np.nan, np.float32)
    heads_RJ[kept] = _floats(message.head_contributions).reshape(len(kept), len(indices))
    fields_RK[kept] = _floats(message.head_fields).reshape(len(kept), len(logits_K))
    others_PJ = _floats(message.other_contributions).reshape(len(names.other_parts), len(indices))
    return Explanation(
        logits_K=logits_K,
        probabilities_K=probabilities_K,
        targets=tuple(
            LabelScore(index, names.labels[index], float(logits_K[index]), float(probabilities_K[index]))
            for index in indices
        ),
        heads_RJ=heads_RJ,
        head_fields_RK=fields_RK,
        head_cards=names.head_cards,
        other_parts=dict(zip(names.other_parts, others_PJ, strict=True)),
        completeness_residual=message.completeness_residual,
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
    return [_explanation(message, names, **common) for message in response.explanations]
