"""inference.GRPCInferenceService: the Open Inference Protocol, version 2, as clients of Triton speak it.

Which models there are is in `model_descriptions`, their tensors in `tensors`, what is measured of their requests in
`model_statistics`. Errors are those of the other service.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from importlib.metadata import version

from grpc_health.v1 import health, health_pb2

from headwise_server.batching import Answer
from headwise_server.errors import InvalidArgument, NotAllowed, NotFound, NotLoadable, NotReady
from headwise_server.explanations import checked_residuals
from headwise_server.identity import SHOWN_CHARACTERS, Action
from headwise_server.inference import Caller, Context, State, Work, check_reply, run
from headwise_server.model_descriptions import Served, all_served, config, index, metadata, served, statistics
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.open_inference import service_pb2_grpc
from headwise_server.peers import PEER_SECONDS, PeerError
from headwise_server.receiving import Arrived
from headwise_server.reception import as_service_error
from headwise_server.replies import delimited_bytes, softmax, top_indices
from headwise_server.repository import Repository, RepositoryError
from headwise_server.services.streams import in_order, patient
from headwise_server.tensors import (
    Wanted,
    add_floats,
    add_texts,
    check_parameters,
    classified,
    images_of,
    size_bytes,
    wanted_outputs,
    whole_number,
)

SERVICE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")
PARAMETERS = ("priority", "timeout", "triton_enable_empty_final_response")
FINAL = "triton_final_response"  # of a stream: whether more answers to the same request come
NO_CONTROL = (
    "this server loads and unloads no model for a client; it serves what its repository has. "
    "Start it with --repository-control to allow that."
)
UNLOAD_DEPENDENTS = "unload_dependents"  # that Triton's clients send; no model of ours has any
FRAME_BYTES = 64  # of a reply, beside its names and tensors
LARGE_BYTES = 2**20  # a message with more is taken apart or made in a thread


def reply_bytes(asked: Served, wanted: list[Wanted], images: int, id_bytes: int) -> int:
    """The most that the reply to a request can take, before anything has run."""
    outputs, labels = asked.outputs, asked.model.manifest.labels
    tensors = sum(
        FRAME_BYTES + delimited_bytes(images * size_bytes(outputs[output.name], output, labels)) for output in wanted
    )
    return 4 * FRAME_BYTES + asked.model.served(asked.session).ByteSize() + id_bytes + tensors


def _deadline(request: oip.ModelInferRequest, deadline: float | None) -> float | None:
    """The deadline of the call, or that of the request's own parameter where it is earlier."""
    microseconds = whole_number(request.parameters, "timeout", "parameters")
    own = time.monotonic() + microseconds / 1e6 if microseconds else None
    return min((limit for limit in (deadline, own) if limit is not None), default=None)


def _response(
    asked: Served, wanted: list[Wanted], answer: Answer, request: oip.ModelInferRequest
) -> oip.ModelInferResponse:
    values, labels = dict(answer.outputs), asked.model.manifest.labels
    if asked.explains:
        checked_residuals(asked.model, answer.outputs)
    else:
        values["probabilities"] = softmax(values["logits"])
    response = oip.ModelInferResponse(model_name=asked.name, model_version=asked.model.manifest.version, id=request.id)
    described = asked.model.served(asked.session)
    for name in ("sha256", "engine", "precision"):
        response.parameters[name].string_param = getattr(described, name)
    for output in wanted:
        if output.classes:
            add_texts(response, output.name, classified(values[output.name], output.classes, labels))
        elif output.name in values:
            add_floats(response, output.name, values[output.name])
        else:
            indices_NJ = top_indices(values["logits"], asked.outputs[output.name].shape[0])
            add_texts(response, output.name, [[labels[index].encode() for index in row] for row in indices_NJ.tolist()])
    return response


async def model_infer(state: State, request: oip.ModelInferRequest, caller: Caller) -> oip.ModelInferResponse:
    """Answer one ModelInfer request.

    Raises:
        ServiceError: as `errors` lists them.
    """
    asked = served(state, request.model_name, request.model_version)
    state.identity().require(Action.EXPLAIN if asked.explains else Action.CLASSIFY)
    manifest = asked.model.manifest
    with state.statistics.request(manifest.name, manifest.version, asked.graph) as measured:
        check_parameters(request.parameters, PARAMETERS, "parameters")
        if priority := whole_number(request.parameters, "priority", "parameters"):
            description = f"expected 0, found {priority}: requests take their turn as they come."
            raise InvalidArgument("parameters[priority]", description)
        caller = replace(caller, deadline=_deadline(request, caller.deadline))
        wanted = wanted_outputs(request, asked.outputs)
        expected, limit = manifest.input, state.batcher.max_queue
        if request.ByteSize() > LARGE_BYTES:
            messages = await asyncio.to_thread(images_of, request, expected, limit)
        else:
            messages = images_of(request, expected, limit)
        size_bytes = reply_bytes(asked, wanted, len(messages), len(request.id))
        check_reply(state, size_bytes)
        [answer] = await run(state, asked.model, [Work(asked.session)], messages, caller)
        measured.ran(len(messages), answer)
        if size_bytes > LARGE_BYTES:
            return await asyncio.to_thread(_response, asked, wanted, answer, request)
        return _response(asked, wanted, answer, request)


def server_metadata(extensions: Sequence[str]) -> oip.ServerMetadataResponse:
    """Name and version of the server, and which extensions of the protocol it has."""
    return oip.ServerMetadataResponse(name="headwise", version=version("headwise"), extensions=extensions)


def _images(request: oip.ModelInferRequest) -> int:
    """How many a request says it has; whether that is so is checked later."""
    shape = request.inputs[0].shape if request.inputs else ()
    return max(1, shape[0]) if shape else 1


class GRPCInferenceService(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The service as grpc.aio calls it; what is ready is what the health service says is serving.

    Args:
        is_controlled: whether clients may load and unload models.
    """

    def __init__(
        self,
        state: State,
        repository: Repository,
        health_servicer: health.aio.HealthServicer,
        *,
        is_controlled: bool = False,
    ) -> None:
        self._state, self._repository, self._health = state, repository, health_servicer
        self._is_controlled = is_controlled
        self._changes: set[asyncio.Future[None]] = set()

    async def _is_serving(self, context: Context) -> bool:
        reply = await self._health.Check(health_pb2.HealthCheckRequest(), context)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        """The process answers."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        """Whether models are served."""
        return oip.ServerReadyResponse(ready=await self._is_serving(context))

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        """Whether this one is among them."""
        try:
            served(self._state, request.name, request.version)
        except (NotFound, NotReady):
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=await self._is_serving(context))

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        """Name, version and extensions."""
        return server_metadata(EXTENSIONS)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        """The tensors of a model."""
        return metadata(self._state, served(self._state, request.name, request.version))

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        """The tensors of a model, as Triton's configuration has them."""
        asked = served(self._state, request.name, request.version)
        return oip.ModelConfigResponse(config=config(self._state, asked))

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        """Counts and times of one model, or of all, in all workers but for one that hangs."""
        models = [served(self._state, request.name, request.version)] if request.name else all_served(self._state)
        others = await self._state.peers.ask("statistics", timeout_seconds=PEER_SECONDS)
        known = self._state.statistics.with_others(text for text in others.values() if isinstance(text, str))
        return oip.ModelStatisticsResponse(model_stats=[statistics(known, asked) for asked in models])

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        """The tensors that a model gives for images."""
        return await model_infer(self._state, request, self._state.caller(context))

    async def ModelStreamInfer(  # type: ignore[override]  # requests are parsed once there is memory for them
        self, request_iterator: AsyncIterator[Arrived[oip.ModelInferRequest]], context: Context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """The same, request by request, in order; an error is answered in the stream and does not end it."""

        async def answered(request: oip.ModelInferRequest) -> oip.ModelStreamInferResponse:
            try:
                response = await model_infer(self._state, request, patient(self._state.caller(context)))
            except Exception as error:
                refusal, response = as_service_error(error), oip.ModelInferResponse(id=request.id)
                self._state.telemetry.refusals.labels(refusal.reason).inc()
                return oip.ModelStreamInferResponse(error_message=str(refusal), infer_response=response)
            response.parameters[FINAL].bool_param = True
            return oip.ModelStreamInferResponse(infer_response=response)

        client = self._state.identity().client
        async with aclosing(in_order(self._state, client, request_iterator, _images, answered)) as replies:
            async for reply in replies:
                yield reply

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        """Every version of every model that the caller may use, under both names."""
        if request.repository_name:
            raise InvalidArgument("repository_name", "expected none: this server has one repository.")
        permits = self._state.identity().permits
        states = [state for state in self._repository.index() if permits(state.name)]
        return index(states, ready_only=request.ready)

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: Context
    ) -> oip.RepositoryModelLoadResponse:
        """Load a model's versions as they lie in the repository, where the server allows that."""
        await self._change(request, "load", self._repository.load)
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: Context
    ) -> oip.RepositoryModelUnloadResponse:
        """Serve no version of a model until it is loaded again, where the server allows that."""
        await self._change(request, "unload", self._repository.unload)
        return oip.RepositoryModelUnloadResponse()

    async def _change(
        self,
        request: oip.RepositoryModelLoadRequest | oip.RepositoryModelUnloadRequest,
        question: str,
        change: Callable[[str], Awaitable[None]],
    ) -> None:
        """Have every worker do it, this one by `change` and the others by `question`."""
        if not self._is_controlled:
            raise NotAllowed(NO_CONTROL)
        identity, name = self._state.identity(), request.model_name
        identity.require(Action.REPOSITORY)
        identity.require_model(name)
        if request.repository_name:
            raise InvalidArgument("repository_name", "expected none: this server has one repository.")
        if unknown := sorted(set(request.parameters) - {UNLOAD_DEPENDENTS}):
            raise InvalidArgument("parameters", f"expected none, found {unknown[0][:SHOWN_CHARACTERS]!r}.")

        async def changed() -> None:
            others = asyncio.ensure_future(self._state.peers.ask(question, name))
            await change(name)
            for worker, answer in (await others).items():
                if isinstance(answer, PeerError):
                    raise RepositoryError(f"worker {worker}: {answer}")

        work = asyncio.ensure_future(changed())  # goes on where its caller leaves: a load is not left half done
        self._changes.add(work)
        work.add_done_callback(self._changes.discard)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may ask for it
        try:
            await asyncio.shield(work)
        except RepositoryError as error:
            raise NotLoadable(str(error)) from None
