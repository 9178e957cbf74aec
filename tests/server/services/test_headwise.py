"""Classify, ClassifyStream, Explain, GetModel and ListModels, as a client on the wire sees them."""

import queue
import struct
import time
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from headwise.bundle import file_sha256, read_manifest
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from support import png
from wire import IMAGES, SECONDS, floats, tensor


def png_bomb() -> bytes:
    """A PNG of a few hundred bytes that says it is 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(30_001)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_encoded_images_and_tensors_give_the_same_logits(stub: HeadwiseServiceStub) -> None:
    """A lossless file of the model's size is the tensor."""
    request = pb.ClassifyRequest(images=[tensor(IMAGES[0]), pb.Image(encoded=png(IMAGES[0]))])
    first, second = stub.Classify(request, timeout=SECONDS).classifications
    assert first.logits == second.logits


def test_classify_gives_what_the_golden_set_says(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """More images than a batch holds, in the order of the request, with probabilities and the first labels."""
    with np.load(bundle / "golden.npz") as file:
        golden = dict(file)
    assert len(golden["images"]) > 8
    request = pb.ClassifyRequest(images=map(tensor, golden["images"]), top_k=3)
    reply = stub.Classify(request, timeout=SECONDS)
    labels = read_manifest(bundle).labels
    for classification, logits_K in zip(reply.classifications, golden["logits"], strict=True):
        np.testing.assert_allclose(floats(classification.logits), logits_K, atol=1e-4)
        probabilities_K = floats(classification.probabilities)
        assert probabilities_K.sum() == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(np.log(probabilities_K[0] / probabilities_K), logits_K[0] - logits_K, atol=1e-3)
        order, top = np.argsort(-floats(classification.logits))[:3], classification.top
        assert [(score.index, score.label) for score in top] == [(index, labels[index]) for index in order]
        assert [score.probability for score in top] == [probabilities_K[index] for index in order]


def test_reply_says_which_files_on_which_engine_and_how_long(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """Name, version, sha256 of the manifest, engine and precision; queue, inference and total."""
    began = time.monotonic()
    reply = stub.Classify(pb.ClassifyRequest(images=[tensor(IMAGES[0])]), timeout=SECONDS)
    took = time.monotonic() - began
    model = reply.model
    assert (model.name, model.version, model.engine, model.precision) == ("digits", "1", "onnxruntime", "f32")
    assert model.sha256 == file_sha256(bundle / "manifest.json")
    timings = reply.timings
    assert 0 < timings.inference_seconds < timings.total_seconds < took
    assert 0 <= timings.queue_seconds < timings.total_seconds


BAD_REQUESTS: dict[str, tuple[str, object, grpc.StatusCode, str, str]] = {
    "no image": ("Classify", pb.ClassifyRequest(), grpc.StatusCode.INVALID_ARGUMENT, "images", "at least one image"),
    "empty message": (
        "Classify",
        pb.ClassifyRequest(images=[pb.Image()]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images[0]",
        "found neither",
    ),
    "not an image": (
        "Classify",
        pb.ClassifyRequest(images=[tensor(IMAGES[0]), pb.Image(encoded=b"hello")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images[1].encoded",
        "found no image that is read here",
    ),
    "truncated": (
        "Explain",
        pb.ExplainRequest(images=[pb.Image(encoded=png(IMAGES[0])[:60])]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images[0].encoded",
        "damaged or truncated",
    ),
    "bomb": (
        "Classify",
        pb.ClassifyRequest(images=[pb.Image(encoded=png_bomb())]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images[0].encoded",
        "found an image of 30000 x 30000 pixels",
    ),
    "wrong size": (
        "Classify",
        pb.ClassifyRequest(images=[tensor(IMAGES[0][:7])]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images[0].tensor",
        "expected height, width, channels (8, 8, 1), found (7, 8, 1)",
    ),
    "short tensor": (
        "Classify",
        pb.ClassifyRequest(images=[pb.Image(tensor=pb.ImageTensor(height=8, width=8, channels=1, data=b"x"))]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images[0].tensor.data",
        "expected 64 bytes, found 1",
    ),
    "unknown label": (
        "Explain",
        pb.ExplainRequest(images=[tensor(IMAGES[0])], labels=["3", "rose"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "labels[1]",
        "found 'rose'",
    ),
    "label twice": (
        "Explain",
        pb.ExplainRequest(images=[tensor(IMAGES[0])], labels=["3", "4", "3"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "labels[2]",
        "expected each label once, found '3' again",
    ),
    "no such head": (
        "Explain",
        pb.ExplainRequest(images=[tensor(IMAGES[0])], silenced_heads=[0, 99]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "silenced_heads[1]",
        "found 99 but the model has kept",
    ),
    "more inferences than may wait": (
        "Explain",
        pb.ExplainRequest(images=[tensor(IMAGES[0])] * 1000, causal=True),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images",
        "inferences in all; send several calls",
    ),
    "unknown model": (
        "Classify",
        pb.ClassifyRequest(model="flowers", images=[tensor(IMAGES[0])]),
        grpc.StatusCode.NOT_FOUND,
        "flowers",
        "models served (digits)",
    ),
    "unknown version": (
        "Explain",
        pb.ExplainRequest(model="digits", version="7", images=[tensor(IMAGES[0])]),
        grpc.StatusCode.NOT_FOUND,
        "digits/7",
        "found '7'",
    ),
    "model to get": (
        "GetModel",
        pb.GetModelRequest(model="flowers"),
        grpc.StatusCode.NOT_FOUND,
        "flowers",
        "models served (digits)",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request_gets_the_reason_and_the_server_goes_on(stub: HeadwiseServiceStub, case: str) -> None:
    """A code, an ErrorInfo and the field or resource, with what was expected and found; the next call is answered."""
    method, request, code, subject, expected = BAD_REQUESTS[case]
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, method)(request, timeout=SECONDS)
    assert caught.value.code() == code
    assert expected in caught.value.details()
    status = rpc_status.from_call(caught.value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    resource = error_details_pb2.ResourceInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "headwise"
    if code == grpc.StatusCode.NOT_FOUND:
        assert status.details[1].Unpack(resource)
        assert resource.resource_name == subject
    else:
        assert status.details[1].Unpack(bad)
        assert [violation.field for violation in bad.field_violations] == [subject]
    assert len(stub.Classify(pb.ClassifyRequest(images=[tensor(IMAGES[0])]), timeout=SECONDS).classifications) == 1


def test_oversized_message_is_refused_and_the_server_goes_on(stub: HeadwiseServiceStub) -> None:
    """Above the limit that the server was started with; gRPC itself refuses it, before it is read."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=bytes(5 * 2**20))])
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request, timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()
    assert len(stub.Classify(pb.ClassifyRequest(images=[tensor(IMAGES[0])]), timeout=SECONDS).classifications) == 1


def test_too_many_images_in_a_call_say_how_many_may_come(stub: HeadwiseServiceStub) -> None:
    """A call that could never fit in the queue is refused, not retried for ever."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(pb.ClassifyRequest(images=[tensor(IMAGES[0])] * 1025), timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "expected at most 1024 images, found 1025" in caught.value.details()


def test_deadline_that_has_no_time_left_is_exceeded(stub: HeadwiseServiceStub) -> None:
    """A microsecond is not enough; the call ends at once."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Explain(pb.ExplainRequest(images=[tensor(IMAGES[0])]), timeout=1e-6)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_stream_answers_in_order_and_outlives_a_bad_request(stub: HeadwiseServiceStub) -> None:
    """Each request with its id, a bad one with its own error in its place, the rest as if nothing had been."""
    requests = [
        pb.ClassifyStreamRequest(
            request_id=str(number),
            request=pb.ClassifyRequest(images=[pb.Image(encoded=b"bad") if number == 5 else tensor(image)]),
        )
        for number, image in enumerate(IMAGES)
    ]
    replies = list(stub.ClassifyStream(iter(requests), timeout=SECONDS))
    assert [reply.request_id for reply in replies] == [str(number) for number in range(len(IMAGES))]
    assert replies[5].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "images[0].encoded" in replies[5].error.message
    whole = stub.Classify(pb.ClassifyRequest(images=map(tensor, IMAGES)), timeout=SECONDS).classifications
    for number, (reply, expected) in enumerate(zip(replies, whole, strict=True)):
        if number != 5:
            [classification] = reply.response.classifications
            np.testing.assert_allclose(floats(classification.logits), floats(expected.logits), atol=1e-4)


def test_stream_answers_before_it_is_ended(stub: HeadwiseServiceStub) -> None:
    """A client may wait for each answer before it sends the next image."""
    requests: queue.SimpleQueue[pb.ClassifyStreamRequest | None] = queue.SimpleQueue()
    replies = stub.ClassifyStream(iter(requests.get, None), timeout=SECONDS)
    for number in range(3):
        request = pb.ClassifyRequest(images=[tensor(IMAGES[number])])
        requests.put(pb.ClassifyStreamRequest(request_id=str(number), request=request))
        assert next(replies).request_id == str(number)
    requests.put(None)
    assert list(replies) == []


def test_stream_broken_off_leaves_the_server_as_it_was(stub: HeadwiseServiceStub) -> None:
    """A client that goes away in the middle of a stream takes nothing from the others."""
    many = (pb.ClassifyStreamRequest(request=pb.ClassifyRequest(images=[tensor(IMAGES[0])])) for _ in range(10_000))
    broken = stub.ClassifyStream(many, timeout=SECONDS)
    next(broken)
    broken.cancel()
    reply = stub.Classify(pb.ClassifyRequest(images=map(tensor, IMAGES)), timeout=SECONDS)
    assert len(reply.classifications) == len(IMAGES)


def test_clients_that_give_up_take_nothing_from_the_others(stub: HeadwiseServiceStub) -> None:
    """Of 60 calls at the same time every third is cancelled; all others get their own answer."""
    expected = stub.Classify(pb.ClassifyRequest(images=map(tensor, IMAGES)), timeout=SECONDS).classifications
    calls = [
        stub.Classify.future(pb.ClassifyRequest(images=[tensor(IMAGES[n % 20])]), timeout=SECONDS) for n in range(60)
    ]
    for call in calls[::3]:
        call.cancel()
    for number, call in enumerate(calls):
        if number % 3:
            classification = call.result().classifications[0]
            np.testing.assert_allclose(floats(classification.logits), floats(expected[number % 20].logits), atol=1e-4)


def test_manifest_of_a_model_is_given(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """GetModel carries the bundle's manifest as it stands, ListModels every model served."""
    reply = stub.GetModel(pb.GetModelRequest(), timeout=SECONDS)
    assert reply.manifest == read_manifest(bundle)
    assert list(stub.ListModels(pb.ListModelsRequest(), timeout=SECONDS).models) == [reply.model]


def test_pictures_for_the_heads_are_given_where_they_are_asked_for(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """The file that the manifest names, as it is."""
    reply = stub.GetModel(pb.GetModelRequest(head_samples=True), timeout=SECONDS)
    assert reply.head_samples == (bundle / reply.manifest.head_samples.path).read_bytes()
    assert not stub.GetModel(pb.GetModelRequest(), timeout=SECONDS).head_samples
