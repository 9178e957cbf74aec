"""Explain, whatever it was asked by: which graphs answer a question, and what becomes of their outputs."""

import asyncio
import time
from functools import partial

import numpy as np
from headwise.graphs import MAPS_GRAPH, SILENCED_GRAPH
from headwise.v1 import service_pb2 as pb

from headwise_server.explanations import Question, explain_reply_bytes, explain_response, question
from headwise_server.identity import Action
from headwise_server.inference import Caller, State, Work, check_reply, run
from headwise_server.models import Model

LARGE_REPLY_INFERENCES = 16  # beyond them a reply is made in a thread


def _works(model: Model, asked: Question, images: int) -> list[Work]:
    """The graphs that answer a question: that of the split, then that of silent heads where any are.

    Raises:
        NotInBundle: the model has none of them.
    """
    if asked.maps:
        works = [Work(model.graph(MAPS_GRAPH), {"targets": asked.ranked_targets(model, images)})]
    else:
        works = [Work(model.explain)]
    if asked.causal or asked.silenced:
        session, silences_SR = model.graph(SILENCED_GRAPH), asked.silences(model)
        if len(silences_SR):
            works.append(Work(session, {"silenced": np.tile(silences_SR, (images, 1))}, len(silences_SR)))
    return works


async def explain(state: State, request: pb.ExplainRequest, caller: Caller) -> pb.ExplainResponse:
    """Answer one Explain request.

    Raises:
        ServiceError: as `errors` lists them; Internal where the parts do not add up to the logits.
    """
    arrived = time.monotonic()
    state.identity().require(Action.EXPLAIN)
    model = state.model(request.model, request.version)
    with state.statistics.request(model.manifest.name, model.manifest.version, "explain") as measured:
        images, asked = len(request.images), question(request, model)
        check_reply(state, explain_reply_bytes(model, images, asked))
        works = _works(model, asked, images)
        answer, *further = await run(state, model, works, request.images, caller)
        measured.ran(images, answer)
        respond = partial(explain_response, model, asked, answer, next(iter(further), None), arrived)
        large = images * sum(work.inferences for work in works) > LARGE_REPLY_INFERENCES
        return await asyncio.to_thread(respond) if large else respond()
