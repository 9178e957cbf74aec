"""headwise.v1.HeadwiseService: Classify, ClassifyStream, Explain, GetModel, ListModels.

A handler resolves the model, has the images decoded and run (`inference`), and the reply made (`replies`). Every
error leaves as a google.rpc.Status; the server goes on.
"""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from headwise.v1 import service_pb2 as pb
from headwise.v1 import service_pb2_grpc

from headwise_server.errors import ServiceError
from headwise_server.identity import Action
from headwise_server.inference import Caller, Context, State, Work, check_reply, run
from headwise_server.models import Model
from headwise_server.receiving import Arrived
from headwise_server.reception import as_service_error
from headwise_server.replies import classify_reply_bytes, classify_response
from headwise_server.services.explain import explain
from headwise_server.services.streams import in_order, patient


async def classify(state: State, request: pb.ClassifyRequest, caller: Caller) -> pb.ClassifyResponse:
    """Answer one Classify request.

    Raises:
        ServiceError: as `errors` lists them.
    """
    arrived = time.monotonic()
    state.identity().require(Action.CLASSIFY)
    model = state.model(request.model, request.version)
    with state.statistics.request(model.manifest.name, model.manifest.version, "classify") as measured:
        check_reply(state, classify_reply_bytes(model, len(request.images), request.top_k))
        [answer] = await run(state, model, [Work(model.classify)], request.images, caller)
        measured.ran(len(request.images), answer)
        return classify_response(model, answer, request.top_k, arrived)


def head_samples(state: State, model: Model) -> bytes:
    """The picture for which each head spoke; empty where the bundle has none.

    Raises:
        ServiceError: the caller may not explain, or it is more than a reply may hold.
    """
    state.identity().require(Action.EXPLAIN)
    check_reply(state, len(model.head_samples) + model.manifest.ByteSize())
    return model.head_samples


def list_models(state: State) -> pb.ListModelsResponse:
    """All models served that the caller may use, by name and version."""
    served = [
        model.served(model.classify)
        for _, versions in sorted(state.visible.items())
        for _, model in sorted(versions.items())
    ]
    return pb.ListModelsResponse(models=served)


def _stream_error(request_id: str, error: ServiceError) -> pb.ClassifyStreamResponse:
    return pb.ClassifyStreamResponse(
        request_id=request_id, error=pb.StreamError(code=int(error.code), message=str(error))
    )


class HeadwiseService(service_pb2_grpc.HeadwiseServiceServicer):
    """The service as grpc.aio calls it."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """Labels of one or more images."""
        return await classify(self._state, request, self._state.caller(context))

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Labels, and what each head contributed to them."""
        return await explain(self._state, request, self._state.caller(context))

    async def ClassifyStream(  # type: ignore[override]  # requests are parsed once there is memory for them
        self, request_iterator: AsyncIterator[Arrived[pb.ClassifyStreamRequest]], context: Context
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        """Classify, request by request, in order; several are worked on at a time.

        A stream that sends faster than it is answered is read more slowly, rather than refused. A server that drains
        answers what it has received, and then ends the stream with NotReady.
        """

        async def answered(item: pb.ClassifyStreamRequest) -> pb.ClassifyStreamResponse:
            try:
                response = await classify(self._state, item.request, patient(self._state.caller(context)))
            except Exception as error:
                refusal = as_service_error(error)
                self._state.telemetry.refusals.labels(refusal.reason).inc()
                return _stream_error(item.request_id, refusal)
            return pb.ClassifyStreamResponse(request_id=item.request_id, response=response)

        def images(item: pb.ClassifyStreamRequest) -> int:
            return len(item.request.images)

        client = self._state.identity().client
        async with aclosing(in_order(self._state, client, request_iterator, images, answered)) as replies:
            async for reply in replies:
                yield reply

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """The manifest of a served model, and pictures for its heads where they are asked for."""
        model = self._state.model(request.model, request.version)
        response = pb.GetModelResponse(model=model.served(model.classify), manifest=model.manifest)
        if request.head_samples:
            response.head_samples = head_samples(self._state, model)
        return response

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """All models served, by name and version."""
        return list_models(self._state)
