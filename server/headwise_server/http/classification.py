"""Classify of pictures: what comes in becomes the message of the gRPC service, its reply becomes JSON.

A picture is the body itself, files of a form, or the message in proto3 JSON, where bytes are base64.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from headwise.v1 import service_pb2 as pb
from starlette.responses import Response

from headwise_server.errors import InvalidArgument
from headwise_server.http.bodies import check_query, form_files, json_body, parsed, shown, whole_number
from headwise_server.http.reception import TIMEOUT, Received
from headwise_server.http.replies import JSON, NoSuchPath, UnsupportedMediaType, json_reply, json_response, message_json
from headwise_server.inference import State
from headwise_server.services.headwise import classify as classify_images
from headwise_server.services.headwise import head_samples as pictures_of_heads
from headwise_server.services.headwise import list_models

FORM, OCTETS = "multipart/form-data", "application/octet-stream"
JSON_REPLY_COPIES = 64  # of the protobuf reply, while its numbers are Python's
Request = pb.ClassifyRequest | pb.ExplainRequest


def _named(received: Received, request: Request) -> None:
    """Put the model of the path into the request."""
    for field, name in (("model", received.path["name"]), ("version", received.path.get("version", ""))):
        own = getattr(request, field)
        if own not in ("", name):
            raise InvalidArgument(field, f"expected that of the path or none in the body, found {shown(own)!r}.")
        setattr(request, field, name)


async def fill(state: State, received: Received, request: Request) -> None:
    """Take the images of the body, and what the query says, into the request."""
    if received.media_type == JSON:
        await json_body(received.content, lambda value: parsed(value, request))
    elif received.media_type == FORM:
        for content in await form_files(received, state.batcher.max_queue):
            request.images.add(encoded=content)
    elif received.media_type.startswith("image/") or received.media_type == OCTETS:
        request.images.add(encoded=received.content)
    else:
        expected = f"expected a picture (image/*), {FORM} or {JSON}"
        raise UnsupportedMediaType("content-type", f"{expected}, found {shown(received.media_type) or 'none'!r}.")
    _named(received, request)
    top = whole_number(received.query, "top_k")
    if top is not None:
        request.top_k = top


async def classify(state: State, received: Received) -> Response:
    """POST /v1/models/NAME:classify."""
    check_query(received.query, ("top_k", TIMEOUT))
    request = pb.ClassifyRequest()
    await fill(state, received, request)
    reply = await classify_images(state, request, received.caller)

    def value() -> dict[str, Any]:
        return {
            "model": message_json(reply.model),
            "classifications": [{"top": [_score(score) for score in each.top]} for each in reply.classifications],
            "timings": message_json(reply.timings),
        }

    with state.memory.hold(received.caller.client, JSON_REPLY_COPIES * reply.ByteSize()):
        return await json_reply(value, 2 * sum(len(each.top) for each in reply.classifications))


def _score(score: pb.LabelScore) -> dict[str, Any]:
    return {"index": score.index, "label": score.label, "logit": score.logit, "probability": score.probability}


async def models(state: State, received: Received) -> Response:
    """GET /v1/models."""
    check_query(received.query, ())
    return json_response(message_json(list_models(state)))


async def model(state: State, received: Received) -> Response:
    """GET /v1/models/NAME."""
    check_query(received.query, ())
    asked = state.model(received.path["name"], received.path.get("version", ""))
    reply: Mapping[str, Any] = {
        "model": message_json(asked.served(asked.classify)),
        "manifest": MessageToDict(asked.manifest, preserving_proto_field_name=True),
    }
    return json_response(reply)


async def head_samples(state: State, received: Received) -> Response:
    """GET /v1/models/NAME/head-samples: the picture that the manifest's head_samples describe."""
    check_query(received.query, ())
    asked = state.model(received.path["name"], received.path.get("version", ""))
    content = pictures_of_heads(state, asked)
    if not content:
        raise NoSuchPath("expected a model whose bundle holds pictures for its heads, found one without.")
    kind = asked.manifest.head_samples.path.rpartition(".")[2]
    return Response(content, media_type=f"image/{kind}", headers={"X-Content-Type-Options": "nosniff"})
