"""The Open Inference Protocol, as a client on the wire sees it; `test_tritonclient` has what that makes of it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import support
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from headwise.bundle import read_manifest
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from headwise_server.batching import Batcher
from headwise_server.engines import Outputs, create
from headwise_server.errors import Internal
from headwise_server.inference import Caller, State
from headwise_server.loading import LoadSettings, load
from headwise_server.memory import Memory
from headwise_server.model_descriptions import Served
from headwise_server.models import Model
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.open_inference.service_pb2_grpc import GRPCInferenceServiceStub
from headwise_server.services.inference import LARGE_BYTES, SERVICE, GRPCInferenceService, model_infer, reply_bytes
from headwise_server.tensors import wanted_outputs
from support import png

SECONDS = support.LONG_SECONDS
IMAGES = np.random.default_rng(3).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
Request = oip.ModelInferRequest


def infer_request(images: np.ndarray = IMAGES[:1], **fields: Any) -> Request:
    """A request with raw images."""
    tensor = Request.InferInputTensor(name="images", datatype="UINT8", shape=images.shape)
    return Request(**{"model_name": "digits", "inputs": [tensor], "raw_input_contents": [images.tobytes()], **fields})


def tensors(reply: oip.ModelInferResponse) -> dict[str, np.ndarray]:
    """The FP32 outputs of a reply."""
    contents = zip(reply.outputs, reply.raw_output_contents, strict=True)
    return {
        output.name: np.frombuffer(content, "<f4").reshape(output.shape)
        for output, content in contents
        if output.datatype == "FP32"
    }


@pytest.fixture
def channel(server: support.ServerProcess) -> Iterator[grpc.Channel]:
    """A connection, with nothing of a client in between."""
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    """The service."""
    return GRPCInferenceServiceStub(channel)


def test_typed_contents_are_raw_ones(stub: GRPCInferenceServiceStub) -> None:
    """Elements in the message, of images and of files, give what raw ones give."""
    expected = tensors(stub.ModelInfer(infer_request(IMAGES[:2]), timeout=SECONDS))["logits"]
    typed = infer_request(IMAGES[:2], raw_input_contents=[])
    typed.inputs[0].contents.uint_contents.extend(IMAGES[:2].ravel().tolist())
    files = infer_request(raw_input_contents=[])
    files.inputs[0].MergeFrom(Request.InferInputTensor(datatype="BYTES"))
    files.inputs[0].shape[:] = [2]
    files.inputs[0].contents.bytes_contents.extend(map(png, IMAGES[:2]))
    for request in (typed, files):
        got = tensors(stub.ModelInfer(request, timeout=SECONDS))["logits"]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def parameter(**value: Any) -> dict[str, oip.InferParameter]:
    """One parameter by name, as an integer."""
    return {name: oip.InferParameter(int64_param=number) for name, number in value.items()}


def test_timeout_of_a_request_bounds_its_deadline(stub: GRPCInferenceServiceStub) -> None:
    """A microsecond is not enough, though the call has all time; 0 means none."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(infer_request(parameters=parameter(timeout=1)), timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert rpc_status.from_call(caught.value).details
    assert stub.ModelInfer(infer_request(parameters=parameter(timeout=0, priority=0)), timeout=SECONDS).outputs


BAD_REQUESTS: dict[str, tuple[Request, str, str]] = {
    "priority": (
        infer_request(parameters=parameter(priority=2)),
        "parameters[priority]",
        "expected 0, found 2: requests take their turn as they come",
    ),
    "unknown parameter": (
        infer_request(parameters=parameter(sequence_id=2)),
        "parameters[sequence_id]",
        "expected only priority, timeout",
    ),
    "timeout in words": (
        infer_request(parameters={"timeout": oip.InferParameter(string_param="soon")}),
        "parameters[timeout]",
        "found string_param",
    ),
    "shared memory": (
        infer_request(
            outputs=[{"name": "logits", "parameters": {"shared_memory_region": oip.InferParameter(string_param="x")}}]
        ),
        "outputs[0].parameters[shared_memory_region]",
        "expected only classification",
    ),
    "no input": (infer_request(inputs=[]), "inputs", "expected one input, 'images', found 0"),
    "raw and typed": (
        infer_request(
            inputs=[
                {"name": "images", "datatype": "UINT8", "shape": IMAGES[:1].shape, "contents": {"uint_contents": [1]}}
            ]
        ),
        "raw_input_contents",
        "found both: also uint_contents",
    ),
    "contents of another datatype": (
        infer_request(
            inputs=[{"name": "images", "datatype": "UINT8", "shape": (1, 8, 8, 1), "contents": {"int_contents": [1]}}],
            raw_input_contents=[],
        ),
        "inputs[0].contents.int_contents",
        "expected uint_contents for UINT8",
    ),
    "pixel too large": (
        infer_request(
            inputs=[
                {
                    "name": "images",
                    "datatype": "UINT8",
                    "shape": (1, 8, 8, 1),
                    "contents": {"uint_contents": [256] * 64},
                }
            ],
            raw_input_contents=[],
        ),
        "inputs[0].contents.uint_contents",
        "expected elements from 0 to 255, found 256",
    ),
    "shape that overflows": (
        infer_request(inputs=[{"name": "images", "datatype": "UINT8", "shape": (2**62, 8, 8, 1)}]),
        "inputs[0].shape",
        "expected 1 to 1024 images, found 4611686018427387904",
    ),
    "file that is none": (
        infer_request(
            inputs=[{"name": "images", "datatype": "BYTES", "shape": (1,)}],
            raw_input_contents=[b"\x05\0\0\0hello"],
        ),
        "images[0].encoded",
        "found no image that is read here",
    ),
    "output twice": (
        infer_request(outputs=[{"name": "logits"}, {"name": "logits"}]),
        "outputs[1].name",
        "expected each output once",
    ),
    "classes of heads": (
        infer_request(
            model_name="digits.explain", outputs=[{"name": "heads", "parameters": parameter(classification=2)}]
        ),
        "outputs[0].parameters[classification]",
        "one number for each label, found 'heads'",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request_gets_the_field_and_the_reason(stub: GRPCInferenceServiceStub, case: str) -> None:
    """Where it is wrong, what was expected and what was found; the server goes on."""
    request, field, expected = BAD_REQUESTS[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=SECONDS)
    assert violation(caught.value) == field
    assert expected in caught.value.details()
    assert stub.ModelInfer(infer_request(), timeout=SECONDS).outputs


def violation(error: Any) -> str:
    """The one field that an INVALID_ARGUMENT is about."""
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(error).details[1].Unpack(bad)
    [only] = bad.field_violations
    return str(only.field)


INTEGERS = st.integers(-(2**63), 2**63 - 1)
SIZES = st.sampled_from([1, 2, 8]) | INTEGERS
PARAMETERS = st.dictionaries(
    st.sampled_from(["timeout", "priority", "classification", "binary_data", ""]),
    st.builds(oip.InferParameter, int64_param=INTEGERS) | st.builds(oip.InferParameter, string_param=st.text()),
    max_size=2,
)
CONTENTS = st.builds(
    oip.InferTensorContents,
    uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=3),
    bytes_contents=st.lists(st.binary(max_size=9), max_size=3),
    int_contents=st.lists(st.integers(-5, 5), max_size=1),
)
INPUTS = st.builds(
    Request.InferInputTensor,
    name=st.just("images") | st.text(),
    datatype=st.sampled_from(["UINT8", "BYTES", "FP32", ""]) | st.text(),
    shape=st.sampled_from([[1, 8, 8, 1], [1], [2], [2, 1], [2**40, 8, 8, 1], []]) | st.lists(SIZES, max_size=9),
    parameters=PARAMETERS,
    contents=st.none() | CONTENTS,
)
REQUESTS = st.builds(
    infer_request,
    model_name=st.sampled_from(["digits", "digits.explain"]),
    parameters=PARAMETERS,
    inputs=st.lists(INPUTS, max_size=2),
    outputs=st.lists(
        st.builds(
            Request.InferRequestedOutputTensor,
            name=st.sampled_from(["logits", "labels", "heads"]) | st.text(),
            parameters=PARAMETERS,
        ),
        max_size=3,
    ),
    raw_input_contents=st.lists(st.just(bytes(64)) | st.binary(max_size=80), max_size=2),
)


@hypothesis.given(REQUESTS)
@hypothesis.settings(
    max_examples=300,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
def test_malformed_request_is_never_an_error_of_the_server(stub: GRPCInferenceServiceStub, request: Request) -> None:
    """Whatever is in it: an answer, or INVALID_ARGUMENT with the field; or its own timeout was too short."""
    call = stub.ModelInfer.future(request, timeout=SECONDS)
    error = call.exception()
    if error is None:
        assert call.result().outputs
    elif "timeout" not in request.parameters or call.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
        assert violation(error)


def test_large_messages_are_taken_apart_and_made_as_small_ones(stub: GRPCInferenceServiceStub) -> None:
    """In a thread, where the loop would stand still."""
    noise = png(np.random.default_rng(1).integers(0, 256, (1100, 1100, 1), dtype=np.uint8))
    tensor = Request.InferInputTensor(name="images", datatype="BYTES", shape=[1])
    request = infer_request(inputs=[tensor], raw_input_contents=[len(noise).to_bytes(4, "little") + noise])
    small = infer_request(inputs=[tensor], raw_input_contents=[])
    small.inputs[0].contents.bytes_contents.append(noise)
    assert request.ByteSize() > LARGE_BYTES
    expected = tensors(stub.ModelInfer(small, timeout=SECONDS))["logits"]
    got = tensors(stub.ModelInfer(request, timeout=SECONDS))["logits"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    images = np.tile(IMAGES, (80, 1, 1, 1))
    classes = [{"name": name, "parameters": parameter(classification=10)} for name in ("logits", "probabilities")]
    reply = stub.ModelInfer(infer_request(images, outputs=classes), timeout=SECONDS)
    few = stub.ModelInfer(infer_request(IMAGES[:1], outputs=classes), timeout=SECONDS)
    assert list(reply.outputs[0].shape) == [960, 10]
    index = few.raw_output_contents[0].split(b":")[1]
    assert reply.raw_output_contents[0].split(b":")[1] == index


async def test_split_that_misses_the_logit_is_withheld(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Explain, and counted as a failure; the labels are still given."""
    models = {"digits": {1: load(bundle, LoadSettings(create("onnxruntime"), "f32"))}}
    session = models["digits"][1].explain
    run: Callable[[np.ndarray], Outputs] = session.run

    def tampered(images_NYXC: np.ndarray) -> Outputs:
        outputs = run(images_NYXC)
        outputs["heads"][0, 0, 4] += 0.5
        return outputs

    with ThreadPoolExecutor(2) as pool:
        state = State(Batcher(pool, streams=1, max_batch=8, max_queue=8), cast(Any, None), Memory(2**20), models=models)
        request = infer_request(model_name="digits.explain")
        assert (await model_infer(state, request, Caller("", None))).outputs
        monkeypatch.setattr(session, "run", tampered)
        with pytest.raises(Internal, match=r"miss the logit by 0\.5, tolerance 0\.0001; the explanation is withheld"):
            await model_infer(state, request, Caller("", None))
        statistics = state.statistics.of("digits", "1", "explain")
        assert (statistics.success.count, statistics.fail.count) == (1, 1)
        assert (await model_infer(state, infer_request(), Caller("", None))).outputs
        await state.batcher.close()


async def test_ready_is_what_health_says_is_serving(bundle: Path) -> None:
    """While models are loaded, or a batch hangs, or the server goes: live all the same. An absent model never is."""
    servicer, context = health.aio.HealthServicer(), cast(Any, None)
    state = State(cast(Any, None), cast(Any, None), Memory(1))
    service = GRPCInferenceService(state, cast(Any, None), servicer)

    async def readiness(name: str = "digits") -> tuple[bool, bool, bool]:
        live = await service.ServerLive(oip.ServerLiveRequest(), context)
        ready = await service.ServerReady(oip.ServerReadyRequest(), context)
        model = await service.ModelReady(oip.ModelReadyRequest(name=name), context)
        return live.live, ready.ready, model.ready

    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert await readiness() == (True, False, False)
    state.models = {"digits": {1: load(bundle, LoadSettings(create("onnxruntime"), "f32"))}}
    assert await readiness() == (True, False, False)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert await readiness() == (True, True, True)
    assert await readiness("flowers") == (True, True, False)


ASKED = {
    "everything": infer_request(IMAGES, id="some id"),
    "classes": infer_request(IMAGES, outputs=[{"name": "logits", "parameters": parameter(classification=99)}]),
    "labels": infer_request(outputs=[{"name": "labels"}]),
    "split": infer_request(IMAGES, model_name="digits.explain"),
}


@pytest.mark.parametrize("case", ASKED)
def test_size_of_a_reply_is_known_before_anything_has_run(
    stub: GRPCInferenceServiceStub, bundle: Path, case: str
) -> None:
    """An upper bound, not far away; of numbers that are written out, the longest that there may be are counted."""
    request = ASKED[case]
    reply = stub.ModelInfer(request, timeout=SECONDS)
    session = cast(Any, SimpleNamespace(precision="f32"))
    model = Model(read_manifest(bundle), "0" * 64, "onnxruntime", session, session)
    asked = Served(request.model_name, model, request.model_name == "digits.explain")
    wanted = wanted_outputs(request, asked.outputs)
    bound = reply_bytes(asked, wanted, reply.outputs[0].shape[0], len(request.id))
    assert reply.ByteSize() <= bound <= (5 if case == "classes" else 1.2) * reply.ByteSize() + 512


def test_statistics_count_what_was_asked(stub: GRPCInferenceServiceStub) -> None:
    """Successes with their images and times, failures apart, by model; without a name all models."""

    def statistics(name: str = "digits.explain") -> oip.ModelStatistics:
        return stub.ModelStatistics(oip.ModelStatisticsRequest(name=name), timeout=SECONDS).model_stats[0]

    before, other_before, began = statistics(), statistics("digits"), time.time()
    stub.ModelInfer(infer_request(IMAGES[:5], model_name="digits.explain"), timeout=SECONDS)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(infer_request(model_name="digits.explain", raw_input_contents=[]), timeout=SECONDS)
    after, ended = statistics(), time.time()
    assert after.inference_count == before.inference_count + 5
    now, then = after.inference_stats, before.inference_stats
    for name in ("success", "fail", "queue", "compute_infer"):
        assert getattr(now, name).count == getattr(then, name).count + 1, name
        assert getattr(now, name).ns > getattr(then, name).ns, name
    assert now.compute_infer.ns - then.compute_infer.ns < now.success.ns - then.success.ns < (ended - began) * 1e9
    assert began * 1e3 - 1 <= after.last_inference <= ended * 1e3 + 1
    assert statistics("digits") == other_before
    everything = stub.ModelStatistics(oip.ModelStatisticsRequest(), timeout=SECONDS).model_stats
    assert [(model.name, model.version) for model in everything] == [("digits", "1"), ("digits.explain", "1")]


def test_statistics_count_classify_and_explain(channel: grpc.Channel, stub: GRPCInferenceServiceStub) -> None:
    """Calls and requests of a stream, successes and failures, under the names of this protocol."""

    def counts(name: str) -> tuple[int, int, int]:
        [model] = stub.ModelStatistics(oip.ModelStatisticsRequest(name=name), timeout=SECONDS).model_stats
        return model.inference_count, model.inference_stats.success.count, model.inference_stats.fail.count

    images = [pb.Image(encoded=png(image_YXC)) for image_YXC in IMAGES[:3]]
    right, wrong = pb.ClassifyRequest(images=images), pb.ClassifyRequest(images=[pb.Image(encoded=b"no image")])
    before, service = {name: counts(name) for name in ("digits", "digits.explain")}, HeadwiseServiceStub(channel)
    service.Classify(right, timeout=SECONDS)
    stream = iter([pb.ClassifyStreamRequest(request=request) for request in (right, wrong)])
    assert len(list(service.ClassifyStream(stream, timeout=SECONDS))) == 2
    service.Explain(pb.ExplainRequest(images=images[:2]), timeout=SECONDS)
    with pytest.raises(grpc.RpcError):
        service.Explain(pb.ExplainRequest(images=images, labels=["unknown"]), timeout=SECONDS)
    added = {name: tuple(np.subtract(counts(name), before[name]).tolist()) for name in before}
    assert added == {"digits": (6, 2, 1), "digits.explain": (2, 1, 1)}


def test_service_has_health_and_reflection(channel: grpc.Channel) -> None:
    """As the other one."""
    health = health_pb2_grpc.HealthStub(channel)
    reply = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=SECONDS)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    assert database.FindFileContainingSymbol("inference.ModelInferRequest").package == "inference"
