"""`tritonclient`, sync and aio, against a server, in processes of its own; and its protocol against ours."""

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import processes
import pytest
import support
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from headwise.bundle import file_sha256, read_manifest
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from headwise_server.open_inference import service_pb2 as oip
from support import png

SECONDS = support.LONG_SECONDS
TRITON_CLIENT = Path(__file__).parent / "triton_client.py"
IMAGES = np.random.default_rng(3).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def channel(server: support.ServerProcess) -> Iterator[grpc.Channel]:
    """A connection, with nothing of a client in between."""
    with grpc.insecure_channel(server.address) as opened:
        yield opened


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
        assert "this server loads and unloads no model for a client" in answers.plain[name]["error"]


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
