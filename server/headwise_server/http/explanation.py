"""Explain of pictures over HTTP: the matrices of the gRPC reply become JSON, each number with the name of its part.

Shape suffixes: K labels, J target labels, P parts, Y rows and X columns of the token grid.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from headwise.graphs import other_part_names
from headwise.v1 import bundle_pb2
from headwise.v1 import service_pb2 as pb
from numpy.typing import NDArray
from starlette.responses import Response

from headwise_server.http.bodies import check_query, truth, whole_numbers
from headwise_server.http.classification import JSON_REPLY_COPIES, fill
from headwise_server.http.reception import TIMEOUT, Received
from headwise_server.http.replies import json_reply, message_json
from headwise_server.inference import State
from headwise_server.models import Model
from headwise_server.replies import softmax, top_indices
from headwise_server.services.explain import explain as explain_images

SILENCED_TOP = 5  # labels that are named where heads are silent
Names = Sequence[Mapping[str, Any]]


def _floats(content: bytes, *shape: int) -> NDArray[np.float32]:
    return np.frombuffer(content, "<f4").reshape(shape)


def _parts(names: Names, values: Mapping[str, NDArray[np.float32]], target: int) -> list[dict[str, Any]]:
    """What each part says to a target: its name, and what the fields (P, J, ...) say."""
    columns = {field: values_PJ[:, target].tolist() for field, values_PJ in values.items()}
    return [
        {**name, **{field: column[row] for field, column in columns.items() if row < len(column)}}
        for row, name in enumerate(names)
    ]


def _scores(labels: Sequence[str], logits_K: NDArray[np.float32], indices: Sequence[int]) -> list[dict[str, Any]]:
    probabilities_K = softmax(logits_K[None])[0]
    return [
        {
            "index": index,
            "label": labels[index],
            "logit": float(logits_K[index]),
            "probability": float(probabilities_K[index]),
        }
        for index in indices
    ]


def _explanation(model: Model, explanation: pb.Explanation, grid: bundle_pb2.TokenGrid | None) -> dict[str, Any]:
    manifest, indices = model.manifest, list(explanation.target_indices)
    targets, labels = len(indices), list(manifest.labels)
    cards = sorted((card for card in manifest.head_cards if card.HasField("row")), key=lambda card: card.row)
    heads, others = (len(cards), targets), (len(other_part_names(manifest)), targets)
    heads_PJ, others_PJ = (
        _floats(explanation.head_contributions, *heads),
        _floats(explanation.other_contributions, *others),
    )
    of_heads = {
        "contribution": heads_PJ,
        "above_mean": heads_PJ - _floats(explanation.mean_head_contributions, heads[0], 1),
    }
    of_others = {
        "contribution": others_PJ,
        "above_mean": others_PJ - _floats(explanation.mean_other_contributions, others[0], 1),
    }
    if grid is not None:
        shape = (targets, grid.rows, grid.columns)
        of_heads["map"] = _floats(explanation.head_maps, heads[0], *shape)
        of_others["map"] = _floats(explanation.other_maps, others[0] - 1, *shape)  # biases, the last, have none
    if explanation.effect_correlations:
        of_heads["effect"] = _floats(explanation.head_effects, *heads)
    head_names: Names = [{"encoder": card.encoder, "head": card.head} for card in cards]
    other_names: Names = [{"name": name} for name in other_part_names(manifest)]
    logits_K = _floats(explanation.logits, len(labels))
    reply_targets = [
        {
            **score,
            "heads": _parts(head_names, of_heads, target),
            "other_parts": _parts(other_names, of_others, target),
        }
        for target, score in enumerate(_scores(labels, logits_K, indices))
    ]
    result = {
        "completeness_residual": explanation.completeness_residual,
        "mean_logit": float(logits_K.mean()),
        "targets": reply_targets,
    }
    if explanation.effect_correlations:
        correlations = _floats(explanation.effect_correlations, targets).tolist()
        for entry, correlation in zip(reply_targets, correlations, strict=True):
            entry["effect_correlation"] = None if np.isnan(correlation) else correlation
    if explanation.silenced_logits:
        silenced_K = _floats(explanation.silenced_logits, len(labels))
        for entry, score in zip(reply_targets, _scores(labels, silenced_K, indices), strict=True):
            entry["silenced_logit"], entry["silenced_probability"] = score["logit"], score["probability"]
        best = top_indices(silenced_K[None], SILENCED_TOP)[0].tolist()
        result["silenced_top"] = _scores(labels, silenced_K, best)
    return result


async def explain(state: State, received: Received) -> Response:
    """POST /v1/models/NAME:explain."""
    check_query(received.query, ("top_k", "labels", "maps", "causal", "silenced_heads", TIMEOUT))
    request = pb.ExplainRequest()
    await fill(state, received, request)
    request.labels.extend(received.query.getlist("labels"))
    request.silenced_heads.extend(whole_numbers(received.query, "silenced_heads"))
    request.maps |= truth(received.query, "maps")
    request.causal |= truth(received.query, "causal")
    model = state.model(request.model, request.version)  # the one that answers: nothing waits in between
    reply = await explain_images(state, request, received.caller)
    grid = reply.token_grid if reply.HasField("token_grid") else None

    def value() -> dict[str, Any]:
        values: dict[str, Any] = {
            "model": message_json(reply.model),
            "explanations": [_explanation(model, each, grid) for each in reply.explanations],
            "completeness_tolerance": reply.completeness_tolerance,
            "timings": message_json(reply.timings),
        }
        return values if grid is None else values | {"token_grid": message_json(grid)}

    with state.memory.hold(received.caller.client, JSON_REPLY_COPIES * reply.ByteSize()):
        return await json_reply(value, reply.ByteSize() // 4)
