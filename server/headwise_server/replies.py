"""From what the engine gave to the reply to Classify, and how large that can get before anything has run.

And what replies have in common. Shape suffixes: N images, P parts, J target labels, K labels.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from headwise.v1 import service_pb2 as pb
from numpy.typing import NDArray

from headwise_server.batching import Answer
from headwise_server.models import Model

DEFAULT_CLASSIFY_TOP = 5
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


def columns(values_NPK: NDArray[np.float32], indices_NJ: NDArray[np.int64]) -> NDArray[np.float32]:
    """The columns that each image has chosen (N, P, J); `np.take_along_axis` with a fifth of its overhead."""
    images, parts, _ = values_NPK.shape
    return values_NPK[np.arange(images)[:, None, None], np.arange(parts)[:, None], indices_NJ[:, None]]


def wire_rows(values: NDArray[Any]) -> list[bytes]:
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
    named = [columns(values_NK[:, None], indices_NJ)[:, 0].tolist() for values_NK in (logits_NK, probabilities_NK)]
    labels = model.manifest.labels
    response = pb.ClassifyResponse(model=model.served(model.classify))
    for logits, probabilities, *scores in zip(
        wire_rows(logits_NK), wire_rows(probabilities_NK), indices_NJ.tolist(), *named, strict=True
    ):
        top_scores = response.classifications.add(logits=logits, probabilities=probabilities).top
        for index, logit, probability in zip(*scores, strict=True):
            top_scores.add(index=index, label=labels[index], logit=logit, probability=probability)
    response.timings.CopyFrom(timings([answer], arrived))
    return response


def timings(answers: Sequence[Answer], arrived: float) -> pb.Timings:
    """Of a reply that is made now."""
    return pb.Timings(
        queue_seconds=max(answer.queue_seconds for answer in answers),
        inference_seconds=max(answer.inference_seconds for answer in answers),
        total_seconds=time.monotonic() - arrived,
    )


def varint_bytes(value: int) -> int:
    """Of a whole number on the wire."""
    return max(1, -(-value.bit_length() // 7))


def delimited_bytes(size_bytes: int, number: int = 1) -> int:
    """A field of a message with its length and its number."""
    return varint_bytes(number << 3) + varint_bytes(size_bytes) + size_bytes


def classify_reply_bytes(model: Model, images: int, top: int) -> int:
    """The most that a reply to Classify can take, from the request alone.

    Args:
        top: as `classify_response` takes it.
    """
    labels = model.label_bytes
    longest = labels[: top or DEFAULT_CLASSIFY_TOP]
    score_bytes = 1 + varint_bytes(len(labels)) + 2 * (1 + FLOAT_BYTES)  # without its label
    scores_bytes = sum(delimited_bytes(score_bytes + delimited_bytes(size)) for size in longest)
    image_bytes = 2 * delimited_bytes(FLOAT_BYTES * len(labels)) + scores_bytes
    frame_bytes = delimited_bytes(model.served(model.classify).ByteSize()) + delimited_bytes(TIMINGS_BYTES)
    return frame_bytes + images * delimited_bytes(image_bytes)
