"""headwise.v1.HeadwiseService: Classify, ClassifyStream, Explain, GetModel, ListModels.

A handler resolves the model, decodes the images in threads, hands the tensor to the batcher and builds the reply. Every
error leaves as a google.rpc.Status; the server goes on.

Shape suffixes: N images, R heads kept, L encoders, K labels, J targets.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import numpy as np
from headwise.bundle import completeness_residuals
from headwise.v1 import service_pb2 as pb
from headwise.v1 import service_pb2_grpc
from numpy.typing import NDArray

from headwise_server.batching import Answer, Batcher
from headwise_server.engines import Outputs, Session
from headwise_server.errors import SHUTTING_DOWN, DeadlineUnmet, Internal, InvalidArgument, NotReady, ServiceError
from headwise_server.images import to_array
from headwise_server.in_flight import InFlight
from headwise_server.repository import Model, Models, resolve

logger = logging.getLogger(__name__)
DEFAULT_CLASSIFY_TOP, DEFAULT_EXPLAIN_TOP = 5, 3
STREAM_WINDOW = 64  # requests of one stream that are worked on beside the one whose turn it is

Context = grpc.aio.ServicerContext[Any, Any]
Reply = TypeVar("Reply")


@dataclass
class State:
    """What the handlers share: the models once they are loaded, the batcher, and the calls in flight."""

    batcher: Batcher
    decoders: Executor
    models: Models = field(default_factory=dict)
    in_flight: InFlight = field(default_factory=InFlight)

    def model(self, name: str, version: str) -> Model:
        """The model that a request names.

        Raises:
            NotReady: no model is loaded yet.
            NotFound: it is not served.
        """
        if not self.models:
            raise NotReady("the models are still loading; wait until the health service says SERVING.")
        return resolve(self.models, name, version)


def _deadline(context: Context) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


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


def _target_indices(labels: Sequence[str], model: Model) -> list[int]:
    names = list(model.manifest.labels)
    for position, label in enumerate(labels):
        if label not in names:
            known = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise InvalidArgument(f"labels[{position}]", f"expected a label of the model ({known}), found {label!r}.")
    return [names.index(label) for label in labels]


async def _images(state: State, messages: Sequence[pb.Image], model: Model) -> NDArray[np.uint8]:
    """The images of a request (N, Y, X, C)."""
    if not messages:
        raise InvalidArgument("images", "expected at least one image, found none.")
    if len(messages) > (limit := state.batcher.max_queue):
        raise InvalidArgument("images", f"expected at most {limit} images, found {len(messages)}; send several calls.")
    loop = asyncio.get_running_loop()
    decoded = [
        loop.run_in_executor(state.decoders, to_array, message, model.manifest.input, f"images[{position}]")
        for position, message in enumerate(messages)
    ]
    return np.stack(await asyncio.gather(*decoded))


async def _infer(state: State, session: Session, images_NYXC: NDArray[np.uint8], deadline: float | None) -> Answer:
    """Outputs for all images of a request, in pieces of a batch at most; if one piece fails, the rest are not run."""
    size = state.batcher.max_batch
    pieces = [images_NYXC[first : first + size] for first in range(0, len(images_NYXC), size)]
    tasks = [asyncio.ensure_future(state.batcher.run(session, piece, deadline)) for piece in pieces]
    try:
        answers = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    outputs = {name: np.concatenate([answer.outputs[name] for answer in answers]) for name in answers[0].outputs}
    queue = max(answer.queue_seconds for answer in answers)
    return Answer(outputs, queue, max(answer.inference_seconds for answer in answers))


def _timings(answer: Answer, arrived: float) -> pb.Timings:
    return pb.Timings(
        queue_seconds=answer.queue_seconds,
        inference_seconds=answer.inference_seconds,
        total_seconds=time.monotonic() - arrived,
    )


async def classify(state: State, request: pb.ClassifyRequest, deadline: float | None) -> pb.ClassifyResponse:
    """Answer one Classify request.

    Raises:
        ServiceError: as `errors` lists them.
    """
    arrived = time.monotonic()
    model = state.model(request.model, request.version)
    images_NYXC = await _images(state, request.images, model)
    answer = await _infer(state, model.classify, images_NYXC, deadline)
    logits_NK = answer.outputs["logits"]
    count = request.top_k or DEFAULT_CLASSIFY_TOP
    classifications = [
        pb.Classification(
            logits=_to_bytes(logits_K),
            probabilities=_to_bytes(probabilities_K),
            top=_scores(_top(logits_K, count), model, logits_K, probabilities_K),
        )
        for logits_K, probabilities_K in zip(logits_NK, softmax(logits_NK), strict=True)
    ]
    return pb.ClassifyResponse(
        model=model.served(model.classify), classifications=classifications, timings=_timings(answer, arrived)
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


async def explain(state: State, request: pb.ExplainRequest, deadline: float | None) -> pb.ExplainResponse:
    """Answer one Explain request.

    Raises:
        ServiceError: as `errors` lists them; Internal where the parts do not add up to the logits.
    """
    arrived = time.monotonic()
    model = state.model(request.model, request.version)
    asked = _target_indices(request.labels, model)
    images_NYXC = await _images(state, request.images, model)
    answer = await _infer(state, model.explain, images_NYXC, deadline)
    explanations = _explanations(model, answer.outputs, asked, request.top_k or DEFAULT_EXPLAIN_TOP)
    return pb.ExplainResponse(
        model=model.served(model.explain),
        explanations=explanations,
        head_cards=model.manifest.head_cards,
        completeness_tolerance=model.manifest.completeness_tolerance,
        timings=_timings(answer, arrived),
    )


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
        return await self._answer(context, classify(self._state, request, _deadline(context)))

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Labels, and what each head contributed to them."""
        return await self._answer(context, explain(self._state, request, _deadline(context)))

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
                tasks.put_nowait(asyncio.create_task(self._stream_item(item, _deadline(context))))
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
