"""From what the engine gave to the reply to Explain, and how large that can get before anything has run.

Shape suffixes: N images, R heads kept, L encoders, P other parts, J target labels, K labels, T tokens, S ways to
silence heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from headwise.graphs import completeness_residuals, map_residuals, other_part_names
from headwise.v1 import service_pb2 as pb
from numpy.typing import NDArray

from headwise_server.batching import Answer
from headwise_server.engines import Outputs
from headwise_server.errors import Internal, InvalidArgument
from headwise_server.models import Model
from headwise_server.replies import (
    DOUBLE_BYTES,
    FLOAT_BYTES,
    TIMINGS_BYTES,
    columns,
    delimited_bytes,
    softmax,
    timings,
    top_indices,
    varint_bytes,
    wire_rows,
)

DEFAULT_TOP = 3
LONG_NUMBERS = pb.Explanation.DESCRIPTOR.fields_by_name["effect_correlations"].number  # of fields from there on


@dataclass(frozen=True)
class Question:
    """What a request wants to know of each image."""

    targets: list[int]  # outputs that it names; none for the `top` highest of each image
    top: int  # of the request
    maps: bool = False
    causal: bool = False
    silenced: tuple[int, ...] = ()  # rows of heads

    def target_count(self, model: Model) -> int:
        """How many labels are explained."""
        return min(len(self.targets) or self.top or DEFAULT_TOP, len(model.manifest.labels))

    def ranked_targets(self, model: Model, images: int) -> NDArray[np.int64]:
        """The targets as maps.onnx takes them (N, J): outputs, or -1 for an image's highest, -2 for the next."""
        targets = self.targets or [-rank for rank in range(1, self.target_count(model) + 1)]
        return np.tile(np.array(targets, np.int64), (images, 1))

    def silences(self, model: Model) -> NDArray[np.bool_]:
        """Which heads are silent in each further inference of an image (S, R): each alone, then those asked for."""
        heads = head_count(model)
        alone = np.eye(heads if self.causal else 0, heads, dtype=np.bool_)
        together = np.zeros((1 if self.silenced else 0, heads), np.bool_)
        together[:, list(self.silenced)] = True
        return np.concatenate([alone, together])


def head_count(model: Model) -> int:
    """Heads that the served model has kept."""
    return sum(shape.heads for shape in model.manifest.architecture.pruned_encoders)


def question(request: pb.ExplainRequest, model: Model) -> Question:
    """What a request asks.

    Raises:
        InvalidArgument: it names labels or heads that the model does not have, or one twice.
    """
    silenced = _silenced_heads(request.silenced_heads, head_count(model))
    return Question(_target_indices(request.labels, model), request.top_k, request.maps, request.causal, silenced)


def _target_indices(labels: Sequence[str], model: Model) -> list[int]:
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


def _silenced_heads(rows: Sequence[int], heads: int) -> tuple[int, ...]:
    if len(rows) > heads:
        raise InvalidArgument("silenced_heads", f"expected at most the model's {heads} heads, found {len(rows)}.")
    seen: set[int] = set()
    for position, row in enumerate(rows):
        if row >= heads or row in seen:
            problem = "again" if row in seen else f"but the model has kept {heads}"
            expected = f"expected the row of a head as its card says, each once, found {row} {problem}."
            raise InvalidArgument(f"silenced_heads[{position}]", expected)
        seen.add(row)
    return tuple(rows)


def checked_residuals(model: Model, outputs: Outputs, *, maps: bool = False) -> NDArray[np.float64]:
    """How far the parts of each image's split are from its logits (N,).

    Raises:
        Internal: further than the bundle's tolerance, or maps that do not add up to their contributions as closely.
    """
    residuals_N = completeness_residuals(outputs)
    tolerance = model.manifest.completeness_tolerance
    if not residuals_N.max() <= tolerance:
        raise Internal(
            f"the parts of an explanation miss the logit by {residuals_N.max():.3g}, tolerance {tolerance:.3g}; "
            f"the explanation is withheld."
        )
    if maps and not (worst := map_residuals(outputs).max()) <= tolerance:
        raise Internal(
            f"a map misses its contribution by {worst:.3g}, tolerance {tolerance:.3g}; the explanation is withheld."
        )
    return residuals_N


def _ranks(values_NRJ: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks over R, those of equal values their mean."""
    others, own = values_NRJ[:, None], values_NRJ[:, :, None]
    ranks_NRJ: NDArray[np.float64] = (own > others).sum(2) + (own == others).sum(2) / 2
    return ranks_NRJ


def rank_correlations(one_NRJ: NDArray[np.float32], other_NRJ: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spearman's rank correlation over R (N, J); NaN where either is constant."""
    centred = [ranks - ranks.mean(1, keepdims=True) for ranks in (_ranks(one_NRJ), _ranks(other_NRJ))]
    one, other = centred
    with np.errstate(invalid="ignore"):  # 0 / 0
        correlations_NJ: NDArray[np.float64] = (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return correlations_NJ.astype(np.float32)


def _map_fields(outputs: Outputs) -> dict[str, list[bytes]]:
    others_NPJT = np.concatenate([outputs["embedding_maps"][:, None], outputs["feed_forward_maps"]], 1)
    return {"head_maps": wire_rows(outputs["head_maps"]), "other_maps": wire_rows(others_NPJT)}


def _silence_fields(
    asked: Question,
    model: Model,
    logits_NK: NDArray[np.float32],
    targets_NJ: NDArray[np.int64],
    contributions_NRJ: NDArray[np.float32],
    silent: Answer,
) -> dict[str, list[bytes]]:
    """What the further inferences say: of each head alone, and of all that were asked for together."""
    silent_NSK = silent.outputs["silenced_logits"].reshape(len(logits_NK), -1, logits_NK.shape[1])
    fields = {}
    if asked.causal:
        effects_NRJ = columns(logits_NK[:, None] - silent_NSK[:, : head_count(model)], targets_NJ)
        fields["head_effects"] = wire_rows(effects_NRJ)
        fields["effect_correlations"] = wire_rows(rank_correlations(contributions_NRJ, effects_NRJ))
    if asked.silenced:
        fields["silenced_logits"] = wire_rows(silent_NSK[:, -1])
    return fields


def explain_response(
    model: Model, asked: Question, answer: Answer, silent: Answer | None, arrived: float
) -> pb.ExplainResponse:
    """The reply to Explain.

    Args:
        answer: of explain.onnx, or of maps.onnx where maps are asked for.
        silent: of silenced.onnx for each image with each of `Question.silences`, where there are any.
        arrived: when the request did, on `time.monotonic`'s clock.

    Raises:
        Internal: the parts do not add up to the logits, or the maps not to their contributions.
    """
    outputs = answer.outputs
    residuals_N, logits_NK = checked_residuals(model, outputs, maps=asked.maps), outputs["logits"]
    if asked.maps:
        targets_NJ = outputs["target_indices"]
    elif asked.targets:
        targets_NJ = np.tile(asked.targets, (len(logits_NK), 1))
    else:
        targets_NJ = top_indices(logits_NK, asked.target_count(model))
    others_NPK = np.concatenate(
        [outputs["embedding"][:, None], outputs["feed_forwards"], outputs["biases"][:, None]], 1
    )
    heads_NRJ = columns(outputs["heads"], targets_NJ)
    fields = {
        "logits": wire_rows(logits_NK),
        "probabilities": wire_rows(softmax(logits_NK)),
        "completeness_residual": residuals_N.tolist(),
        "target_indices": targets_NJ.tolist(),
        "head_contributions": wire_rows(heads_NRJ),
        "other_contributions": wire_rows(columns(others_NPK, targets_NJ)),
        "head_fields": wire_rows(outputs["head_fields"]),
        "mean_head_contributions": wire_rows(outputs["heads"].mean(2)),
        "mean_other_contributions": wire_rows(others_NPK.mean(2)),
    }
    if asked.maps:
        fields |= _map_fields(outputs)
    if silent is not None:
        fields |= _silence_fields(asked, model, logits_NK, targets_NJ, heads_NRJ, silent)
    response = pb.ExplainResponse(
        model=model.served(model.explain),
        completeness_tolerance=model.manifest.completeness_tolerance,
        token_grid=model.manifest.architecture.token_grid if asked.maps else None,
        timings=timings([answer] if silent is None else [answer, silent], arrived),
    )
    for values in zip(*fields.values(), strict=True):
        response.explanations.add(**dict(zip(fields, values, strict=True)))
    return response


def explain_reply_bytes(model: Model, images: int, asked: Question) -> int:
    """The most that a reply to Explain can take, from the request alone."""
    manifest = model.manifest
    labels, heads, others = len(manifest.labels), head_count(model), len(other_part_names(manifest))
    targets, tokens = asked.target_count(model), manifest.architecture.tokens
    floats = [labels, labels, heads * labels, heads * targets, others * targets, heads, others]
    if asked.maps:
        floats += [heads * targets * tokens, (others - 1) * targets * tokens]
    if asked.causal:
        floats += [heads * targets, targets]
    if asked.silenced:
        floats.append(labels)
    image_bytes = sum(delimited_bytes(FLOAT_BYTES * count, LONG_NUMBERS) for count in floats)
    image_bytes += delimited_bytes(targets * varint_bytes(labels)) + 1 + DOUBLE_BYTES
    frame_bytes = delimited_bytes(model.served(model.explain).ByteSize()) + delimited_bytes(TIMINGS_BYTES)
    frame_bytes += delimited_bytes(manifest.architecture.token_grid.ByteSize()) if asked.maps else 0
    return frame_bytes + 1 + DOUBLE_BYTES + images * delimited_bytes(image_bytes)
