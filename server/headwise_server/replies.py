"""From what the engine gave to the messages of a reply, and how large a reply can get before anything has run.

Shape suffixes: N images, R heads kept, P other parts, J target labels, K labels.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from headwise.graphs import completeness_residuals, other_part_names
from headwise.v1 import service_pb2 as pb
from numpy.typing import NDArray

from headwise_server.batching import Answer
from headwise_server.engines import Outputs
from headwise_server.errors import Internal, InvalidArgument
from headwise_server.models import Model

DEFAULT_CLASSIFY_TOP, DEFAULT_EXPLAIN_TOP = 5, 3
FLOAT_BYTES, DOUBLE_BYTES = 4, 8
TIMINGS_BYTES = 3 * (1 + DOUBLE_BYTES)


def softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (N, K)."""
    exponentials_NK = np.exp((logits_NK - logits_NK.max(1, keepdims=True)).astype(np.float64))
    probabilities_NK: NDArray[np.float64] = exponentials_NK / exponentials_NK.sum(1, keepdims=True)
    return probabilities_NK.astype(np.float32)


def top_indices(values_NK: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Positions of the largest values of each image, the largest first (N, J); J is at most K."""
    return np.argsort(-values_NK, axis=1, kind="stable")[:, :count]


def target_indices(labels: Sequence[str], model: Model) -> list[int]:
    """The outputs of the labels that a request asks about.

    Raises:
        InvalidArgument: there are more than the model has, one that it does not have, or one twice.
    """
    names = model.manifest.labels
    if len(labels) > len(names):
        raise InvalidArgument("labels", f"expected at most the model's {len(names)} labels, found {len(labels)}.")
    indices = {name: index for index, name in enumerate(names)} if labels else {}
    asked: dict[str, int] = {}
    for position, label in enumerate(labels):
        if label not in indices:
            known = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise InvalidArgument(f"labels[{position}]", f"expected a label of the model ({known}), found {label!r}.")
        if label in asked:
            raise InvalidArgument(f"labels[{position}]", f"expected each label once, found {label!r} again.")
        asked[label] = indices[label]
    return list(asked.values())


def checked_residuals(model: Model, outputs: Outputs) -> NDArray[np.float64]:
    """How far the parts of each image's split are from its logits (N,).

    Raises:
        Internal: further than the bundle's tolerance.
    """
    residuals_N = completeness_residuals(outputs)
    tolerance = model.manifest.completeness_tolerance
    if not residuals_N.max() <= tolerance:
        raise Internal(
            f"the parts of an explanation miss the logit by {residuals_N.max():.3g}, tolerance {tolerance:.3g}; "
            f"the explanation is withheld."
        )
    return residuals_N


def _columns(values_NRK: NDArray[np.float32], indices_NJ: NDArray[np.int64]) -> NDArray[np.float32]:
    """The columns that each image has chosen (N, R, J); `np.take_along_axis` with a fifth of its overhead."""
    images, rows, _ = values_NRK.shape
    return values_NRK[np.arange(images)[:, None, None], np.arange(rows)[:, None], indices_NJ[:, None]]


def _rows(values: NDArray[Any]) -> list[bytes]:
    """What an array has for each image, as the wire has it."""
    return [image.tobytes() for image in values.astype("<f4", copy=False)]


def classify_response(model: Model, answer: Answer, top: int, arrived: float) -> pb.ClassifyResponse:
    """The reply to Classify.

    Args:
        top: labels to name for each image; 0 for the default.
        arrived: when the request did, on `time.monotonic`'s clock.
    """
    logits_NK = answer.outputs["logits"]
    probabilities_NK = softmax(logits_NK)
    indices_NJ = top_indices(logits_NK, top or DEFAULT_CLASSIFY_TOP)
    named = [_columns(values_NK[:, None], indices_NJ)[:, 0].tolist() for values_NK in (logits_NK, probabilities_NK)]
    labels = model.manifest.labels
    response = pb.ClassifyResponse(model=model.served(model.classify))
    for logits, probabilities, *scores in zip(
        _rows(logits_NK), _rows(probabilities_NK), indices_NJ.tolist(), *named, strict=True
    ):
        top_scores = response.classifications.add(logits=logits, probabilities=probabilities).top
        for index, logit, probability in zip(*scores, strict=True):
            top_scores.add(index=index, label=labels[index], logit=logit, probability=probability)
    response.timings.CopyFrom(_timings(answer, arrived))
    return response


def explain_response(model: Model, answer: Answer, targets: list[int], top: int, arrived: float) -> pb.ExplainResponse:
    """The reply to Explain.

    Args:
        targets: outputs to explain; empty for the `top` highest of each image.
        top: 0 for the default.
        arrived: when the request did, on `time.monotonic`'s clock.

    Raises:
        Internal: the parts do not add up to the logits.
    """
    outputs = answer.outputs
    residuals_N, logits_NK = checked_residuals(model, outputs), outputs["logits"]
    if targets:
        targets_NJ = np.tile(targets, (len(logits_NK), 1))
    else:
        targets_NJ = top_indices(logits_NK, top or DEFAULT_EXPLAIN_TOP)
    others_NPK = np.concatenate(
        [outputs["embedding"][:, None], outputs["feed_forwards"], outputs["biases"][:, None]], 1
    )
    response = pb.ExplainResponse(
        model=model.served(model.explain), completeness_tolerance=model.manifest.completeness_tolerance
    )
    for target_indices, residual, logits, probabilities, fields, heads, others in zip(
        targets_NJ.tolist(),
        residuals_N.tolist(),
        _rows(logits_NK),
        _rows(softmax(logits_NK)),
        _rows(outputs["head_fields"]),
        _rows(_columns(outputs["heads"], targets_NJ)),
        _rows(_columns(others_NPK, targets_NJ)),
        strict=True,
    ):
        response.explanations.add(
            logits=logits,
            probabilities=probabilities,
            completeness_residual=residual,
            target_indices=target_indices,
            head_contributions=heads,
            other_contributions=others,
            head_fields=fields,
        )
    response.timings.CopyFrom(_timings(answer, arrived))
    return response


def _timings(answer: Answer, arrived: float) -> pb.Timings:
    return pb.Timings(
        queue_seconds=answer.queue_seconds,
        inference_seconds=answer.inference_seconds,
        total_seconds=time.monotonic() - arrived,
    )


def _varint_bytes(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))


def delimited_bytes(size_bytes: int) -> int:
    """A field of a message with its length and its number, which is below 16."""
    return 1 + _varint_bytes(size_bytes) + size_bytes


def classify_reply_bytes(model: Model, images: int, top: int) -> int:
    """The most that a reply to Classify can take, from the request alone.

    Args:
        top: as `classify_response` takes it.
    """
    labels = model.label_bytes
    longest = labels[: top or DEFAULT_CLASSIFY_TOP]
    score_bytes = 1 + _varint_bytes(len(labels)) + 2 * (1 + FLOAT_BYTES)  # without its label
    scores_bytes = sum(delimited_bytes(score_bytes + delimited_bytes(size)) for size in longest)
    image_bytes = 2 * delimited_bytes(FLOAT_BYTES * len(labels)) + scores_bytes
    frame_bytes = delimited_bytes(model.served(model.classify).ByteSize()) + delimited_bytes(TIMINGS_BYTES)
    return frame_bytes + images * delimited_bytes(image_bytes)


def explain_reply_bytes(model: Model, images: int, targets: int) -> int:
    """The most that a reply to Explain can take, from the request alone.

    Args:
        targets: labels asked for by name, else the `top` of the request; 0 for the default.
    """
    manifest = model.manifest
    labels, heads = len(manifest.labels), sum(shape.heads for shape in manifest.architecture.pruned_encoders)
    targets = min(targets or DEFAULT_EXPLAIN_TOP, labels)
    floats = (labels, labels, heads * labels, heads * targets, len(other_part_names(manifest)) * targets)
    image_bytes = sum(delimited_bytes(FLOAT_BYTES * count) for count in floats)
    image_bytes += delimited_bytes(targets * _varint_bytes(labels)) + 1 + DOUBLE_BYTES
    frame_bytes = delimited_bytes(model.served(model.explain).ByteSize()) + delimited_bytes(TIMINGS_BYTES)
    return frame_bytes + 1 + DOUBLE_BYTES + images * delimited_bytes(image_bytes)
