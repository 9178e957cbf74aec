"""headwise.v1.HeadwiseService: Classify, ClassifyStream, Explain, GetModel, ListModels.

A handler resolves the model, has the images decoded and run (`inference`), and the reply made (`replies`). Every
error leaves as a google.rpc.Status; the server goes on.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

from headwise.v1 import service_pb2 as pb
from headwise.v1 import service_pb2_grpc

from headwise_server.errors import SHUTTING_DOWN, NotReady, ServiceError
from headwise_server.inference import Caller, Context, State, run
from headwise_server.reception import COPIES, as_service_error
from headwise_server.replies import classify_response, explain_response, target_indices

WINDOW_BATCHES = 4  # of the images of one stream that are worked on at a time
LARGE_REPLY_IMAGES = 16  # beyond them a reply with explanations is made in a thread


async def classify(state: State, request: pb.ClassifyRequest, caller: Caller) -> pb.ClassifyResponse:
    """Answer one Classify request.

    Raises:
        ServiceError: as `errors` lists them.
    """
    arrived = time.monotonic()
    model = state.model(request.model, request.version)
    answer = await run(state, model, model.classify, request.images, caller)
    return classify_response(model, answer, request.top_k, arrived)


async def explain(state: State, request: pb.ExplainRequest, caller: Caller) -> pb.ExplainResponse:
    """Answer one Explain request.

    Raises:
        ServiceError: as `errors` lists them; Internal where the parts do not add up to the logits.
    """
    arrived = time.monotonic()
    model = state.model(request.model, request.version)
    asked = target_indices(request.labels, model)
    answer = await run(state, model, model.explain, request.images, caller)
    respond = partial(explain_response, model, answer, asked, request.top_k, arrived)
    return await asyncio.to_thread(respond) if len(request.images) > LARGE_REPLY_IMAGES else respond()


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
        return await classify(self._state, request, Caller.of(context))

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Labels, and what each head contributed to them."""
        return await explain(self._state, request, Caller.of(context))

    async def _stream_item(self, item: pb.ClassifyStreamRequest, caller: Caller) -> pb.ClassifyStreamResponse:
        try:
            with self._state.memory.hold(caller.client, COPIES * item.ByteSize()):
                response = await classify(self._state, item.request, caller)
        except Exception as error:
            return _stream_error(item.request_id, as_service_error(error))
        return pb.ClassifyStreamResponse(request_id=item.request_id, response=response)

    async def ClassifyStream(
        self, request_iterator: AsyncIterator[pb.ClassifyStreamRequest], context: Context
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        """Classify, request by request, in order; several are worked on at a time.

        A stream that sends faster than it is answered is read more slowly, rather than refused. A server that drains
        answers what it has received, and then ends the stream with NotReady.
        """
        tasks: asyncio.Queue[tuple[asyncio.Task[pb.ClassifyStreamResponse], int] | None] = asyncio.Queue()
        window = WINDOW_BATCHES * self._state.batcher.max_batch
        images, answered = 0, asyncio.Event()

        async def receive() -> None:
            nonlocal images
            async for item in request_iterator:
                size_bytes = COPIES * item.ByteSize()
                while images >= window or (images and not self._state.memory.has_room(context.peer(), size_bytes)):
                    answered.clear()
                    await answered.wait()
                task = asyncio.create_task(self._stream_item(item, Caller.of(context, waits_for_room=True)))
                size = max(1, len(item.request.images))
                tasks.put_nowait((task, size))
                images += size

        receiver = asyncio.create_task(receive())
        receiver.add_done_callback(lambda _: tasks.put_nowait(None))  # also where it is cancelled before it starts
        self._state.in_flight.add_receiver(receiver)
        try:
            while entry := await tasks.get():
                task, size = entry
                yield await task
                images -= size
                answered.set()
            if receiver.cancelled():
                raise NotReady(SHUTTING_DOWN)
            receiver.result()  # raises what ended it: a message that cannot be parsed
        finally:
            receiver.cancel()
            while not tasks.empty():
                if entry := tasks.get_nowait():
                    entry[0].cancel()

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """The manifest of a served model."""
        model = self._state.model(request.model, request.version)
        return pb.GetModelResponse(model=model.served(model.classify), manifest=model.manifest)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """All models served, by name and version."""
        served = [
            model.served(model.classify)
            for name in sorted(self._state.models)
            for _, model in sorted(self._state.models[name].items())
        ]
        return pb.ListModelsResponse(models=served)
