"""From what the engine gave to the messages of a reply.

Shape suffixes: N images, R heads kept, K labels.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from headwise.bundle import completeness_residuals
from headwise.v1 import service_pb2 as pb
from numpy.typing import NDArray

from headwise_server.batching import Answer
from headwise_server.engines import Outputs
from headwise_server.errors import Internal, InvalidArgument
from headwise_server.models import Model

DEFAULT_CLASSIFY_TOP, DEFAULT_EXPLAIN_TOP = 5, 3


def softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (N, K)."""
    exponentials_NK = np.exp((logits_NK - logits_NK.max(1, keepdims=True)).astype(np.float64))
    probabilities_NK: NDArray[np.float64] = exponentials_NK / exponentials_NK.sum(1, keepdims=True)
    return probabilities_NK.astype(np.float32)


def _to_bytes(values: NDArray[Any]) -> bytes:
    return values.astype("<f4").tobytes()


def _scores(
    indices: Sequence[int], model: Model, logits_K: NDArray[np.float32], probabilities_K: NDArray[np.float32]
) -> list[pb.LabelScore]:
    return [
        pb.LabelScore(
            index=index,
            label=model.manifest.labels[index],
            logit=float(logits_K[index]),
            probability=float(probabilities_K[index]),
        )
        for index in indices
    ]


def _top(logits_K: NDArray[np.float32], count: int) -> list[int]:
    return [int(index) for index in np.argsort(-logits_K, kind="stable")[:count]]


def target_indices(labels: Sequence[str], model: Model) -> list[int]:
    """The outputs of the labels that a request asks about.

    Raises:
        InvalidArgument: the model does not have one of them.
    """
    names = list(model.manifest.labels)
    for position, label in enumerate(labels):
        if label not in names:
            known = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise InvalidArgument(f"labels[{position}]", f"expected a label of the model ({known}), found {label!r}.")
    return [names.index(label) for label in labels]


def classify_response(model: Model, answer: Answer, top: int, arrived: float) -> pb.ClassifyResponse:
    """The reply to Classify.

    Args:
        top: labels to name for each image; 0 for the default.
        arrived: when the request did, on `time.monotonic`'s clock.
    """
    logits_NK = answer.outputs["logits"]
    classifications = [
        pb.Classification(
            logits=_to_bytes(logits_K),
            probabilities=_to_bytes(probabilities_K),
            top=_scores(_top(logits_K, top or DEFAULT_CLASSIFY_TOP), model, logits_K, probabilities_K),
        )
        for logits_K, probabilities_K in zip(logits_NK, softmax(logits_NK), strict=True)
    ]
    return pb.ClassifyResponse(
        model=model.served(model.classify), classifications=classifications, timings=_timings(answer, arrived)
    )


def _timings(answer: Answer, arrived: float) -> pb.Timings:
    return pb.Timings(
        queue_seconds=answer.queue_seconds,
        inference_seconds=answer.inference_seconds,
        total_seconds=time.monotonic() - arrived,
    )


def _head_contributions(
    model: Model, heads_RK: NDArray[np.float32], fields_RK: NDArray[np.float32], targets: list[int]
) -> list[pb.HeadContribution]:
    contributions = []
    for card in model.manifest.head_cards:
        message = pb.HeadContribution(encoder=card.encoder, head=card.head, pruned=card.pruned)
        if not card.pruned:
            message.contributions.extend(heads_RK[card.row, targets].tolist())
            message.fields = _to_bytes(fields_RK[card.row])
        contributions.append(message)
    return contributions


def _other_parts(outputs: Outputs, image: int, targets: list[int]) -> list[pb.NamedContribution]:
    named = {"embedding": outputs["embedding"][image]}
    named |= {f"encoders.{i}.feed_forward": row_K for i, row_K in enumerate(outputs["feed_forwards"][image])}
    named["biases"] = outputs["biases"][image]
    return [pb.NamedContribution(name=name, contributions=row_K[targets].tolist()) for name, row_K in named.items()]


def _explanations(model: Model, outputs: Outputs, asked: list[int], count: int) -> list[pb.Explanation]:
    residuals_N = completeness_residuals(outputs)
    tolerance = model.manifest.completeness_tolerance
    if not residuals_N.max() <= tolerance:
        raise Internal(
            f"the parts of an explanation miss the logit by {residuals_N.max():.3g}, tolerance {tolerance:.3g}; "
            f"the explanation is withheld."
        )
    probabilities_NK = softmax(outputs["logits"])
    explanations = []
    for image, logits_K in enumerate(outputs["logits"]):
        targets = asked or _top(logits_K, count)
        explanations.append(
            pb.Explanation(
                logits=_to_bytes(logits_K),
                probabilities=_to_bytes(probabilities_NK[image]),
                targets=_scores(targets, model, logits_K, probabilities_NK[image]),
                heads=_head_contributions(model, outputs["heads"][image], outputs["head_fields"][image], targets),
                other_parts=_other_parts(outputs, image, targets),
                completeness_residual=float(residuals_N[image]),
            )
        )
    return explanations


def explain_response(model: Model, answer: Answer, targets: list[int], top: int, arrived: float) -> pb.ExplainResponse:
    """The reply to Explain.

    Args:
        targets: outputs to explain; empty for the `top` highest of each image.
        top: 0 for the default.
        arrived: when the request did, on `time.monotonic`'s clock.

    Raises:
        Internal: the parts do not add up to the logits.
    """
    return pb.ExplainResponse(
        model=model.served(model.explain),
        explanations=_explanations(model, answer.outputs, targets, top or DEFAULT_EXPLAIN_TOP),
        head_cards=model.manifest.head_cards,
        completeness_tolerance=model.manifest.completeness_tolerance,
        timings=_timings(answer, arrived),
    )
