"""headwise.v1.HeadwiseService: Classify, ClassifyStream, Explain, GetModel, ListModels.

A handler resolves the model, has the images decoded and run (`inference`), and the reply made (`replies`). Every
error leaves as a google.rpc.Status; the server goes on.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from headwise.v1 import service_pb2 as pb
from headwise.v1 import service_pb2_grpc

from headwise_server.errors import SHUTTING_DOWN, DeadlineUnmet, Internal, NotReady, ServiceError
from headwise_server.inference import Context, State, deadline_of, decoded, infer
from headwise_server.replies import classify_response, explain_response, target_indices

logger = logging.getLogger(__name__)
STREAM_WINDOW = 64  # requests of one stream that are worked on beside the one whose turn it is

Reply = TypeVar("Reply")


async def classify(state: State, request: pb.ClassifyRequest, deadline: float | None) -> pb.ClassifyResponse:
    """Answer one Classify request.

    Raises:
        ServiceError: as `errors` lists them.
    """
    arrived = time.monotonic()
    model = state.model(request.model, request.version)
    images_NYXC = await decoded(state, request.images, model)
    answer = await infer(state, model.classify, images_NYXC, deadline)
    return classify_response(model, answer, request.top_k, arrived)


async def explain(state: State, request: pb.ExplainRequest, deadline: float | None) -> pb.ExplainResponse:
    """Answer one Explain request.

    Raises:
        ServiceError: as `errors` lists them; Internal where the parts do not add up to the logits.
    """
    arrived = time.monotonic()
    model = state.model(request.model, request.version)
    asked = target_indices(request.labels, model)
    images_NYXC = await decoded(state, request.images, model)
    answer = await infer(state, model.explain, images_NYXC, deadline)
    return explain_response(model, answer, asked, request.top_k, arrived)


def _stream_error(request_id: str, error: ServiceError) -> pb.ClassifyStreamResponse:
    return pb.ClassifyStreamResponse(
        request_id=request_id, error=pb.StreamError(code=int(error.code), message=str(error))
    )


def as_service_error(error: BaseException) -> ServiceError:
    """The error that the client gets; an unforeseen one is logged and becomes Internal."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return DeadlineUnmet("the call was cancelled while it was worked on.")
    logger.error("unforeseen error in a handler", exc_info=error)
    return Internal("an unforeseen error; the server's log has it.")


class HeadwiseService(service_pb2_grpc.HeadwiseServiceServicer):
    """The service as grpc.aio calls it."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def _answer(self, context: Context, work: Awaitable[Reply]) -> Reply:
        try:
            return await work
        except (Exception, asyncio.CancelledError) as error:
            if context.cancelled():
                raise  # nobody listens any more
            await context.abort_with_status(as_service_error(error).grpc_status())
            raise  # abort_with_status has raised already

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """Labels of one or more images."""
        return await self._answer(context, classify(self._state, request, deadline_of(context)))

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Labels, and what each head contributed to them."""
        return await self._answer(context, explain(self._state, request, deadline_of(context)))

    async def _stream_item(self, item: pb.ClassifyStreamRequest, deadline: float | None) -> pb.ClassifyStreamResponse:
        try:
            response = await classify(self._state, item.request, deadline)
        except Exception as error:
            return _stream_error(item.request_id, as_service_error(error))
        return pb.ClassifyStreamResponse(request_id=item.request_id, response=response)

    async def ClassifyStream(
        self, request_iterator: AsyncIterator[pb.ClassifyStreamRequest], context: Context
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        """Classify, request by request, in order; several are worked on at a time.

        A server that drains answers what it has received, and then ends the stream with NotReady.
        """
        tasks: asyncio.Queue[asyncio.Task[pb.ClassifyStreamResponse] | None] = asyncio.Queue()
        window = asyncio.Semaphore(STREAM_WINDOW)

        async def receive() -> None:
            async for item in request_iterator:
                tasks.put_nowait(asyncio.create_task(self._stream_item(item, deadline_of(context))))
                await window.acquire()

        receiver = asyncio.create_task(receive())
        receiver.add_done_callback(lambda _: tasks.put_nowait(None))  # also where it is cancelled before it starts
        self._state.in_flight.add_receiver(receiver)
        try:
            while task := await tasks.get():
                yield await task
                window.release()
            if receiver.cancelled():
                await context.abort_with_status(NotReady(SHUTTING_DOWN).grpc_status())
        finally:
            receiver.cancel()
            while not tasks.empty():
                if task := tasks.get_nowait():
                    task.cancel()

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """The manifest of a served model."""

        async def served_model() -> pb.GetModelResponse:
            model = self._state.model(request.model, request.version)
            return pb.GetModelResponse(model=model.served(model.classify), manifest=model.manifest)

        return await self._answer(context, served_model())

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """All models served, by name and version."""
        served = [
            model.served(model.classify)
            for name in sorted(self._state.models)
            for _, model in sorted(self._state.models[name].items())
        ]
        return pb.ListModelsResponse(models=served)
