"""The Open Inference Protocol, as tritonclient and a client on the wire see it."""

import base64
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import hypothesis
import hypothesis.strategies as st
import numpy as np
import processes
import pytest
import support
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from headwise.bundle import file_sha256, read_manifest
from headwise.v1 import service_pb2 as pb
from headwise.v1.bundle_pb2 import Bundle
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from headwise_server.inference import State
from headwise_server.model_descriptions import Served, all_served, served
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.open_inference.service_pb2_grpc import GRPCInferenceServiceStub
from headwise_server.repository import Model
from headwise_server.services.inference import SERVICE, reply_bytes
from headwise_server.tensors import wanted_outputs
from PIL import Image

SECONDS = support.LONG_SECONDS
TRITON_CLIENT = Path(__file__).parent / "triton_client.py"
IMAGES = np.random.default_rng(3).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
Request = oip.ModelInferRequest


def png(image_YXC: np.ndarray) -> bytes:
    """An image as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image_YXC[..., 0]).save(content, "PNG")
    return content.getvalue()


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


@dataclass
class Answers:
    """What tritonclient got."""

    plain: dict[str, Any]
    tensors: dict[str, np.ndarray]


def ask(kind: str, server: support.ServerProcess, folder: Path) -> Answers:
    """All that `triton_client.py` asks."""
    np.save(folder / "images.npy", IMAGES)
    (folder / "digit.png").write_bytes(png(IMAGES[0]))
    processes.run([sys.executable, TRITON_CLIENT, kind, server.address, folder], check=True)
    with np.load(folder / "tensors.npz") as file:
        arrays = {name.replace("|", "/"): file[name] for name in file}
    return Answers(json.loads((folder / "answers.json").read_text()), arrays)


@pytest.fixture(scope="module", params=["sync", "aio"])
def answers(
    request: pytest.FixtureRequest, server: support.ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Answers:
    """Of the blocking client, and of the awaiting one."""
    return ask(request.param, server, tmp_path_factory.mktemp(request.param))


def classified(channel: grpc.Channel) -> pb.ClassifyResponse:
    """The same images, by Classify."""
    images = [pb.Image(tensor=pb.ImageTensor(height=8, width=8, channels=1, data=image.tobytes())) for image in IMAGES]
    return HeadwiseServiceStub(channel).Classify(pb.ClassifyRequest(images=images), timeout=SECONDS)


def test_tritonclient_gets_what_classify_gives(answers: Answers, channel: grpc.Channel, bundle: Path) -> None:
    """Logits, probabilities and the first labels of each image, with the files and the engine that gave them."""
    expected = classified(channel)
    for row, classification in enumerate(expected.classifications):
        for name in ("logits", "probabilities"):
            values = np.frombuffer(getattr(classification, name), "<f4")
            np.testing.assert_allclose(answers.tensors[f"classify/{name}"][row], values, rtol=0, atol=1e-4)
        labels = [score.label.encode() for score in classification.top]
        assert answers.tensors["classify/labels"][row].tolist() == labels
    said = answers.plain["classify"]
    assert (said["model"], said["version"], said["id"]) == ("digits", "1", "")
    sha256 = file_sha256(bundle / "manifest.json")
    assert said["parameters"] == {"sha256": sha256, "engine": "onnxruntime", "precision": "f32"}


def test_tritonclient_sends_files(answers: Answers) -> None:
    """A file in each element of BYTES, in one axis or in two, is the image that it holds."""
    expected_K = answers.tensors["classify/logits"][0]
    for name in ("files", "files in a column"):
        np.testing.assert_allclose(answers.tensors[f"{name}/logits"], [expected_K, expected_K], rtol=0, atol=1e-4)


def test_tritonclient_gets_the_highest_classes(answers: Answers, bundle: Path) -> None:
    """The classification extension: value, index and label of so many; the outputs asked for and no other."""
    labels, said = read_manifest(bundle).labels, answers.plain["top"]
    assert said["id"] == "7"
    assert {name for name in answers.tensors if name.startswith("top/")} == {"top/probabilities", "top/logits"}
    for name, count in (("probabilities", 3), ("logits", 10)):
        values_NK = answers.tensors[f"classify/{name}"]
        texts_NJ = answers.tensors[f"top/{name}"]
        assert texts_NJ.shape == (12, count)
        for values_K, texts_J in zip(values_NK, texts_NJ.tolist(), strict=True):
            parts = [text.decode().split(":") for text in texts_J]
            assert all(label == labels[int(index)] for _, index, label in parts)
            written = [float(value) for value, _, _ in parts]
            assert written == sorted(written, reverse=True)
            np.testing.assert_allclose(written, np.sort(values_K)[::-1][:count], rtol=0, atol=1e-4)


def test_tritonclient_gets_the_exact_split(answers: Answers, channel: grpc.Channel) -> None:
    """Every tensor of the split, which adds up to the logits; contributions and fields are those of Explain."""
    got = {name: answers.tensors[f"explain/{name}"] for name in ("logits", "heads", "feed_forwards", "head_fields")}
    embedding, biases = answers.tensors["explain/embedding"], answers.tensors["explain/biases"]
    total_NK = got["heads"].sum(1, dtype=np.float64) + got["feed_forwards"].sum(1) + embedding + biases
    np.testing.assert_allclose(total_NK, got["logits"], rtol=0, atol=1e-4)
    images = [pb.Image(tensor=pb.ImageTensor(height=8, width=8, channels=1, data=image.tobytes())) for image in IMAGES]
    request = pb.ExplainRequest(images=images, labels=[str(number) for number in range(10)])
    reply = HeadwiseServiceStub(channel).Explain(request, timeout=SECONDS)
    for row, explanation in enumerate(reply.explanations):
        others = [embedding[row], *got["feed_forwards"][row], biases[row]]
        for sent, expected in (
            (explanation.logits, got["logits"][row]),
            (explanation.head_contributions, got["heads"][row]),
            (explanation.other_contributions, np.stack(others)),
            (explanation.head_fields, got["head_fields"][row]),
        ):
            np.testing.assert_allclose(np.frombuffer(sent, "<f4"), expected.ravel(), rtol=0, atol=1e-4)
    assert answers.plain["explain"]["model"] == "digits.explain"


def test_tritonclient_streams_in_order_past_an_error(answers: Answers) -> None:
    """Each request with its own answer, a bad one with its error, and the last answer to each is marked so."""
    for number in range(5):
        said = answers.plain[f"stream {number}"]
        if number == 2:
            assert "inputs[0].shape: expected [N, 8, 8, 1] for UINT8, found [1, 4, 8, 1]" in said["error"]
            continue
        assert (said["id"], said["final"]) == (str(number), True)
        expected_K = answers.tensors["classify/logits"][number]
        np.testing.assert_allclose(answers.tensors[f"stream {number}/logits"], [expected_K], rtol=0, atol=1e-4)


def test_tritonclient_learns_what_is_served(answers: Answers) -> None:
    """Readiness, and the index with each model under both its names."""
    said = answers.plain
    assert [said[name] for name in ("live", "ready", "model ready", "explain ready")] == [True] * 4
    assert [said[name] for name in ("absent ready", "absent version ready")] == [False, False]
    assert said["server"]["name"] == "headwise"
    assert said["server"]["extensions"] == ["classification", "model_configuration", "model_repository", "statistics"]
    assert said["index"]["models"] == [
        {"name": "digits", "version": "1", "state": "READY"},
        {"name": "digits.explain", "version": "1", "state": "READY"},
    ]


def test_tritonclient_learns_the_tensors(answers: Answers, bundle: Path) -> None:
    """Metadata and configuration agree with each other and with what is sent."""
    shapes = {
        output["name"]: (output["datatype"], [int(axis) for axis in output["shape"]])
        for kind in ("metadata", "explain metadata")
        for output in answers.plain[kind]["outputs"]
    }
    for name, (datatype, shape) in shapes.items():
        kind = "explain" if f"explain/{name}" in answers.tensors else "classify"
        tensor = answers.tensors[f"{kind}/{name}"]
        assert shape == [-1, *tensor.shape[1:]]
        assert datatype == ("BYTES" if name == "labels" else "FP32")
    metadata, config = answers.plain["metadata"], answers.plain["config"]["config"]
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": ["-1", "8", "8", "1"]}]
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("digits", ["1"], "onnxruntime")
    assert config["max_batch_size"] == 1024
    assert config["input"] == [
        {"name": "images", "data_type": "TYPE_UINT8", "format": "FORMAT_NHWC", "dims": ["8", "8", "1"]}
    ]
    assert [(output["name"], output["dims"]) for output in config["output"]] == [
        (output["name"], output["shape"][1:]) for output in metadata["outputs"]
    ]


def test_tritonclient_is_refused_in_words(answers: Answers) -> None:
    """An unknown model is NOT_FOUND; the repository belongs to whoever runs the server."""
    assert answers.plain["absent"]["status"] == "StatusCode.NOT_FOUND"
    assert "models served (digits)" in answers.plain["absent"]["error"]
    for name in ("load", "unload"):
        assert answers.plain[name]["status"] == "StatusCode.PERMISSION_DENIED"
        assert f"this server {name}s no model for a client" in answers.plain[name]["error"]


def test_protocol_is_that_of_tritonclient(tmp_path: Path) -> None:
    """Every message, field, enum and method of ours has there the same name, number, type and shape."""
    completed = processes.run([sys.executable, TRITON_CLIENT, "descriptors", "", tmp_path], check=True)
    messages: dict[str, DescriptorProto] = {}
    enums: dict[str, EnumDescriptorProto] = {}
    methods: dict[str, Any] = {}
    for encoded in json.loads(completed.stdout):
        file = FileDescriptorProto.FromString(base64.b64decode(encoded))
        messages |= {message.name: message for message in file.message_type}
        enums |= {enum.name: enum for enum in file.enum_type}
        methods |= {method.name: method for service in file.service for method in service.method}
    ours = FileDescriptorProto()
    oip.DESCRIPTOR.CopyToProto(ours)
    assert ours.package == "inference"
    assert len(ours.message_type) > 30
    for message in ours.message_type:
        assert_part(message, messages[message.name])
    for enum in ours.enum_type:
        assert_values(enum, enums[enum.name])
    [service] = ours.service
    for method in service.method:
        other = methods[method.name]
        for name in ("input_type", "output_type", "client_streaming", "server_streaming"):
            assert getattr(method, name) == getattr(other, name), method.name


def assert_values(enum: EnumDescriptorProto, whole: EnumDescriptorProto) -> None:
    """The values of an enum stand in the other."""
    numbers = {value.name: value.number for value in whole.value}
    assert all(numbers[value.name] == value.number for value in enum.value), enum.name


def assert_part(message: DescriptorProto, whole: DescriptorProto) -> None:
    """The fields of a message, and of those inside, stand in the other."""
    fields = {field.number: field for field in whole.field}
    for field in message.field:
        other = fields[field.number]
        for name in ("name", "type", "type_name", "label"):
            assert getattr(field, name) == getattr(other, name), (message.name, field.name)
        assert field.HasField("oneof_index") == other.HasField("oneof_index")
    nested = {inner.name: inner for inner in whole.nested_type}
    for inner in message.nested_type:
        assert_part(inner, nested[inner.name])
    enums = {enum.name: enum for enum in whole.enum_type}
    for enum in message.enum_type:
        assert_values(enum, enums[enum.name])


def test_our_client_shares_a_process_with_tritonclient(server: support.ServerProcess) -> None:
    """In either order of their imports; each is answered."""
    for imports in ("import headwise\nimport tritonclient.grpc", "import tritonclient.grpc\nimport headwise"):
        code = f"""
import sys
{imports}

with headwise.Client(sys.argv[1]) as client:
    print(client.list_models()[0].name, tritonclient.grpc.InferenceServerClient(sys.argv[1]).is_server_live())
"""
        completed = processes.run([sys.executable, "-c", code, server.address], check=True)
        assert completed.stdout == "digits True\n"


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


def test_model_with_the_other_name_of_another_goes_first(bundle: Path) -> None:
    """A model that is itself called digits.explain is classified with; the explanations of digits have no name then."""
    session = cast(Any, SimpleNamespace(precision="f32"))
    model = Model(read_manifest(bundle), "", "onnxruntime", session, session)
    other = Model(Bundle(name="digits.explain", version="1"), "", "onnxruntime", session, session)
    state = State(cast(Any, None), cast(Any, None))
    state.models = {"digits": {1: model}}
    assert served(state, "digits.explain", "") == Served("digits.explain", model, True)
    state.models = {"digits": {1: model}, "digits.explain": {1: other}}
    assert served(state, "digits.explain", "") == Served("digits.explain", other, False)
    assert [entry.name for entry in all_served(state)] == ["digits", "digits.explain", "digits.explain.explain"]


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


def test_service_has_health_and_reflection(channel: grpc.Channel) -> None:
    """As the other one."""
    health = health_pb2_grpc.HealthStub(channel)
    reply = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=SECONDS)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    assert database.FindFileContainingSymbol("inference.ModelInferRequest").package == "inference"
