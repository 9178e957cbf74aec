"""Classify, ClassifyStream, Explain, GetModel and ListModels, as a client on the wire sees them."""

import queue
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import support
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from headwise.bundle import file_sha256, read_manifest
from headwise.graphs import other_part_names
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from scipy.stats import spearmanr
from support import png

SECONDS = support.LONG_SECONDS
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)


def tensor(image_YXC: np.ndarray) -> pb.Image:
    """An image as a raw tensor."""
    height, width, channels = image_YXC.shape
    return pb.Image(tensor=pb.ImageTensor(height=height, width=width, channels=channels, data=image_YXC.tobytes()))


def png_bomb() -> bytes:
    """A PNG of a few hundred bytes that says it is 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(30_001)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def floats(data: bytes) -> np.ndarray:
    """A tensor of a reply."""
    return np.frombuffer(data, "<f4")


@pytest.fixture
def stub(server: support.ServerProcess) -> Iterator[HeadwiseServiceStub]:
    """The service, with nothing of our client in between."""
    with grpc.insecure_channel(server.address) as channel:
        yield HeadwiseServiceStub(channel)


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


def test_explain_splits_every_logit_exactly(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """For every image and label the parts add up to the logit, which is Classify's, within what the reply says."""
    manifest = read_manifest(bundle)
    images = list(map(tensor, IMAGES))
    classified = stub.Classify(pb.ClassifyRequest(images=images), timeout=SECONDS)
    reply = stub.Explain(pb.ExplainRequest(images=images, labels=manifest.labels), timeout=SECONDS)
    assert reply.completeness_tolerance == 1e-4
    for explanation, plain in zip(reply.explanations, classified.classifications, strict=True):
        np.testing.assert_allclose(floats(explanation.logits), floats(plain.logits), rtol=0, atol=1e-5)
        np.testing.assert_allclose(floats(explanation.probabilities), floats(plain.probabilities), rtol=0, atol=1e-5)
        parts = floats(explanation.head_contributions + explanation.other_contributions).reshape(-1, 10)
        total_K = parts.sum(0, dtype=np.float64)
        residual = float(np.abs(total_K - floats(explanation.logits)).max())
        assert residual == pytest.approx(explanation.completeness_residual, abs=1e-6)
        assert explanation.completeness_residual <= 1e-4


def test_explain_has_a_row_for_every_part_that_the_manifest_names(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """Kept heads as the cards count them, then the other parts; the numbers are those of the golden set."""
    with np.load(bundle / "golden.npz") as file:
        golden = dict(file)
    described = stub.GetModel(pb.GetModelRequest(), timeout=SECONDS)
    rows = [card.row for card in described.manifest.head_cards if not card.pruned]
    assert rows == list(range(golden["heads"].shape[1]))
    assert len(rows) < len(described.manifest.head_cards)  # some are removed
    names = other_part_names(described.manifest)
    assert names == ["embedding", "encoders.0.feed_forward", "encoders.1.feed_forward", "biases"]
    reply = stub.Explain(pb.ExplainRequest(images=map(tensor, golden["images"]), top_k=2), timeout=SECONDS)
    assert reply.model.sha256 == described.model.sha256
    for image, explanation in enumerate(reply.explanations):
        targets = list(explanation.target_indices)
        feed_forwards = golden["feed_forwards"][image]
        others = np.stack([golden["embedding"][image], *feed_forwards, golden["biases"][image]])
        for sent, expected in (
            (explanation.head_contributions, golden["heads"][image][:, targets]),
            (explanation.other_contributions, others[:, targets]),
            (explanation.head_fields, golden["head_fields"][image]),
        ):
            np.testing.assert_allclose(floats(sent).reshape(expected.shape), expected, rtol=0, atol=1e-4)


def test_explain_takes_the_labels_asked_for_or_the_first_of_each_image(stub: HeadwiseServiceStub) -> None:
    """Named labels in the order asked, else the top ones by logit; three of them by default, all of them at most."""
    image = tensor(IMAGES[1])
    named = stub.Explain(pb.ExplainRequest(images=[image], labels=["7", "2"]), timeout=SECONDS).explanations[0]
    assert list(named.target_indices) == [7, 2]
    best = stub.Explain(pb.ExplainRequest(images=[image]), timeout=SECONDS).explanations[0]
    order = np.argsort(-floats(best.logits))
    assert list(best.target_indices) == list(order[:3])
    everything = stub.Explain(pb.ExplainRequest(images=[image], top_k=2**32 - 1), timeout=SECONDS).explanations[0]
    assert list(everything.target_indices) == list(order)


def kept_heads(stub: HeadwiseServiceStub) -> int:
    """Of the served model."""
    manifest = stub.GetModel(pb.GetModelRequest(), timeout=SECONDS).manifest
    return sum(not card.pruned for card in manifest.head_cards)


def test_means_over_all_labels_are_what_the_labels_get_alike(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """Contributions less them add up to the logit above the mean of all logits."""
    labels = read_manifest(bundle).labels
    request = pb.ExplainRequest(images=[tensor(IMAGES[2])], labels=labels)
    [explanation] = stub.Explain(request, timeout=SECONDS).explanations
    parts_PK = floats(explanation.head_contributions + explanation.other_contributions).reshape(-1, 10)
    means_P = floats(explanation.mean_head_contributions + explanation.mean_other_contributions)
    np.testing.assert_allclose(parts_PK.mean(1), means_P, rtol=0, atol=1e-5)
    logits_K = floats(explanation.logits)
    above_K = (parts_PK - means_P[:, None]).sum(0)
    np.testing.assert_allclose(above_K, logits_K - logits_K.mean(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("labels", [["7", "2"], []])
def test_maps_add_up_to_contributions_and_change_nothing_else(stub: HeadwiseServiceStub, labels: list[str]) -> None:
    """Over the token grid that the reply describes, for labels by name and for the best ones of each image."""
    images = list(map(tensor, IMAGES[:11]))
    plain = stub.Explain(pb.ExplainRequest(images=images, labels=labels, top_k=4), timeout=SECONDS)
    mapped = stub.Explain(pb.ExplainRequest(images=images, labels=labels, top_k=4, maps=True), timeout=SECONDS)
    assert not plain.HasField("token_grid")
    grid, rows = mapped.token_grid, kept_heads(stub)
    assert (grid.rows, grid.columns, grid.stride_pixels) == (4, 4, 2)
    for without, explanation in zip(plain.explanations, mapped.explanations, strict=True):
        assert list(explanation.target_indices) == list(without.target_indices)
        targets = len(explanation.target_indices)
        heads_RJ = floats(explanation.head_contributions).reshape(rows, targets)
        others_PJ = floats(explanation.other_contributions).reshape(-1, targets)
        np.testing.assert_allclose(floats(without.head_contributions).reshape(rows, targets), heads_RJ, atol=1e-5)
        head_maps = floats(explanation.head_maps).reshape(rows, targets, 16)
        other_maps = floats(explanation.other_maps).reshape(-1, targets, 16)
        assert len(other_maps) == len(others_PJ) - 1
        np.testing.assert_allclose(head_maps.sum(-1), heads_RJ, rtol=0, atol=1e-4)
        np.testing.assert_allclose(other_maps.sum(-1), others_PJ[:-1], rtol=0, atol=1e-4)
        assert not without.head_maps
        assert not without.other_maps


def test_each_head_is_removed_in_turn_where_that_is_asked_for(stub: HeadwiseServiceStub) -> None:
    """Its fall is that of the logit with that head alone silent, whatever else is asked; with the rank correlation."""
    images, rows = list(map(tensor, IMAGES[:3])), kept_heads(stub)
    reply = stub.Explain(pb.ExplainRequest(images=images, labels=["4", "9"], causal=True), timeout=SECONDS)
    for row in range(rows):
        request = pb.ExplainRequest(images=images, labels=["4", "9"], silenced_heads=[row], causal=row == 0)
        silenced = stub.Explain(request, timeout=SECONDS).explanations
        for explanation, silent in zip(reply.explanations, silenced, strict=True):
            effects_J = floats(explanation.head_effects).reshape(rows, 2)[row]
            falls_K = floats(silent.logits) - floats(silent.silenced_logits)
            np.testing.assert_allclose(effects_J, falls_K[[4, 9]], rtol=0, atol=1e-5)
            assert bool(silent.head_effects) == (row == 0)
            assert np.abs(effects_J).max() > 0
    for explanation in reply.explanations:
        contributions_RJ = floats(explanation.head_contributions).reshape(rows, 2)
        effects_RJ = floats(explanation.head_effects).reshape(rows, 2)
        expected = [spearmanr(contributions_RJ[:, target], effects_RJ[:, target]).statistic for target in range(2)]
        np.testing.assert_allclose(floats(explanation.effect_correlations), expected, atol=1e-6)
        assert not explanation.silenced_logits


def test_silencing_several_heads_is_more_than_the_sum_of_each(stub: HeadwiseServiceStub) -> None:
    """They are silent together, in any order; what is asked twice is answered alike."""
    image, rows = tensor(IMAGES[5]), kept_heads(stub)
    every = list(range(rows))

    def silenced(heads: list[int]) -> np.ndarray:
        request = pb.ExplainRequest(images=[image], silenced_heads=heads)
        return floats(stub.Explain(request, timeout=SECONDS).explanations[0].silenced_logits)

    np.testing.assert_array_equal(silenced(every), silenced(every[::-1]))
    assert np.abs(silenced(every) - silenced(every[:1])).max() > 1e-3


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
