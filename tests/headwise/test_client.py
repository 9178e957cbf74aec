"""The clients against a real server: the same results from the sync and the aio one."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import support
from headwise import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Explanation,
    HeadwiseError,
    InvalidRequest,
    NotFound,
    Unavailable,
    messages,
)
from headwise.bundle import read_manifest
from headwise.client import REMEMBERED_MODELS, _RememberedNames
from headwise.v1 import service_pb2
from PIL import Image

IMAGES = list(np.random.default_rng(1).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8))


@pytest.fixture
def no_server() -> Iterator[str]:
    """An address that nothing listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


def assert_same(result: Any, expected: Any) -> None:
    """Two results agree in their labels and numbers; times differ."""
    assert [score.label for score in result.top] == [score.label for score in expected.top]
    np.testing.assert_allclose(result.logits_K, expected.logits_K, atol=1e-4)


def test_bytes_path_and_array_are_the_same_image(client: Client, tmp_path: Path) -> None:
    """Whatever form an image has in the caller's hands; a grey one may leave out its last axis."""
    path = tmp_path / "digit.png"
    Image.fromarray(IMAGES[0][..., 0]).save(path)
    forms = [path, str(path), path.read_bytes(), IMAGES[0], IMAGES[0][..., 0]]
    results = client.classify(forms, top_k=2)
    assert len({result.logits_K.tobytes() for result in results}) == 1
    assert len(results[0].top) == 2


def test_results_carry_probabilities_model_and_timings(client: Client) -> None:
    """What an engineer needs to answer for an answer."""
    [classification] = client.classify(IMAGES[:1])
    assert classification.probabilities_K.sum() == pytest.approx(1, abs=1e-5)
    assert classification.top[0].probability == classification.probabilities_K.max()
    assert (classification.model.name, classification.model.engine) == ("digits", "onnxruntime")
    assert 0 < classification.timings.inference_seconds <= classification.timings.total_seconds


def total(explanation: Explanation) -> np.ndarray:
    """Sum of all parts for each target."""
    return explanation.heads_RJ.sum(0, dtype=np.float64) + sum(explanation.other_parts.values())


def test_explanation_adds_up_to_the_logits(client: Client) -> None:
    """Heads and other parts sum to each target's logit, within the tolerance that the result states."""
    for explanation in client.explain(IMAGES, labels=["3", "8"]):
        assert [score.label for score in explanation.targets] == ["3", "8"]
        logits = [score.logit for score in explanation.targets]
        np.testing.assert_allclose(total(explanation), logits, atol=explanation.completeness_tolerance)
        assert explanation.completeness_residual <= explanation.completeness_tolerance


def test_heads_come_with_their_cards_and_removed_ones_are_silent(client: Client) -> None:
    """A removed head contributes nothing and has no field."""
    [explanation] = client.explain(IMAGES[:1])
    cards = explanation.head_cards
    assert explanation.heads_RJ.shape == (8, 3)
    assert explanation.head_fields_RK.shape == (8, 10)
    for card, contributions_J, fields_K in zip(cards, explanation.heads_RJ, explanation.head_fields_RK, strict=True):
        assert card.images == 359
        assert (not contributions_J.any()) == card.pruned
        assert np.isnan(fields_K).all() == card.pruned
    assert any(card.expert_labels for card in cards)


def test_heads_are_named_once_for_each_model(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first explanation asks for the manifest, later ones do not."""
    asked = []
    names_of = messages.names_of

    def counted(response: Any) -> Any:
        asked.append(response.model.sha256)
        return names_of(response)

    monkeypatch.setattr(messages, "names_of", counted)
    first, second = client.explain(IMAGES[:1]), client.explain(IMAGES[:1])
    assert asked == [first[0].model.sha256]
    assert first[0].head_cards == second[0].head_cards


def test_model_replaced_between_explanation_and_names_is_an_error() -> None:
    """Heads are never named by the manifest of another model."""
    described = service_pb2.GetModelResponse(model=service_pb2.ServedModel(name="digits", version="1", sha256="new"))
    with pytest.raises(Unavailable, match="model digits version 1 was replaced during the call"):
        _RememberedNames().add(service_pb2.ServedModel(name="digits", version="1", sha256="old"), described)


class _Gone(grpc.RpcError):
    """What a server says of a version that it no longer serves."""

    def code(self) -> grpc.StatusCode:
        """NOT_FOUND."""
        return grpc.StatusCode.NOT_FOUND


def test_version_retired_between_explanation_and_names_is_explained_by_its_successor(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller sees nothing of it, once; what is gone for good is an error."""
    get_model, requests = client._stub.GetModel, []

    def gone_at_first(request: Any, timeout: float, metadata: Any) -> Any:
        requests.append(request)
        if len(requests) == 1:
            raise _Gone
        return get_model(request, timeout=timeout)

    monkeypatch.setattr(client._stub, "GetModel", gone_at_first)
    assert len(client.explain(IMAGES[:1])) == 1
    assert len(requests) == 2


def test_names_of_few_models_are_remembered() -> None:
    """The latest, so that a client that lives long does not grow."""
    memory = _RememberedNames()
    for number in range(100):
        served = service_pb2.ServedModel(sha256=str(number))
        memory.add(served, service_pb2.GetModelResponse(model=served))
    known = [number for number in range(100) if memory.get(service_pb2.ServedModel(sha256=str(number)))]
    assert known == list(range(100 - REMEMBERED_MODELS, 100))


def test_stream_gives_results_in_order(client: Client) -> None:
    """One after another as they are asked for."""
    expected = client.classify(IMAGES)
    for result, expected_result in zip(client.classify_stream(iter(IMAGES)), expected, strict=True):
        assert_same(result, expected_result)


def test_stream_names_the_image_that_was_refused(client: Client) -> None:
    """The images before it have been answered."""
    results = client.classify_stream([IMAGES[0], b"no image", IMAGES[1]])
    assert next(results).top
    with pytest.raises(InvalidRequest, match=r"image 1: images\[0\].encoded: expected an image, found no image"):
        next(results)


def test_models_and_manifest(client: Client, bundle: Path) -> None:
    """What is served, and the manifest as it stands in the bundle."""
    [model] = client.list_models()
    assert (model.name, model.version) == ("digits", "1")
    assert client.get_model() == read_manifest(bundle)
    assert client.get_model("digits", "1") == read_manifest(bundle)


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        ([], {}, InvalidRequest, "expected at least one image"),
        ([b"x"], {}, InvalidRequest, r"images\[0\].encoded: expected an image, found no image that is read here"),
        (IMAGES[:1], {"model": "flowers"}, NotFound, r"models served \(digits\), found model 'flowers'"),
        (IMAGES[:1], {"version": "9"}, NotFound, "found '9'"),
        ([np.zeros((9, 9), np.uint8)], {}, InvalidRequest, r"expected height, width, channels \(8, 8, 1\)"),
        ([bytes(5 * 2**20)], {}, InvalidRequest, "larger than max .*: send fewer or smaller images in one call"),
    ],
)
def test_refused_call_says_what_was_expected(
    client: Client, images: list[Any], options: dict[str, str], error: type[HeadwiseError], message: str
) -> None:
    """The server's words, as an error of ours that names what the caller can do."""
    with pytest.raises(error, match=message) as caught:
        client.classify(images, **options)
    assert type(caught.value) is error


def test_no_server_says_so_and_what_to_do(no_server: str) -> None:
    """The address, and how to start one; never a bare grpc error."""
    with Client(no_server, timeout_seconds=support.LONG_SECONDS) as client:
        with pytest.raises(Unavailable, match=f"no server answers at {no_server}. Start one with `headwise-server`"):
            client.list_models()
        with pytest.raises(Unavailable):
            client.wait_until_ready(0.3)


def test_call_ends_with_its_timeout(server: support.ServerProcess) -> None:
    """A call that takes longer than the client allows is an error, not a wait."""
    with Client(server.address, timeout_seconds=1e-5) as client, pytest.raises(DeadlineExceeded):
        client.classify(IMAGES)


async def aiter(images: list[np.ndarray]) -> AsyncIterator[np.ndarray]:
    """The images, one after another."""
    for image in images:
        yield image


async def test_aio_client_gives_what_the_sync_one_does(server: support.ServerProcess, client: Client) -> None:
    """Every method, awaited."""
    async with AsyncClient(server.address, timeout_seconds=support.LONG_SECONDS) as awaiting:
        for result, expected in zip(await awaiting.classify(IMAGES), client.classify(IMAGES), strict=True):
            assert_same(result, expected)
        streamed = [result async for result in awaiting.classify_stream(aiter(IMAGES))]
        for result, expected in zip(streamed, client.classify(IMAGES), strict=True):
            assert_same(result, expected)
        [explained] = await awaiting.explain(IMAGES[:1], top_k=10)
        np.testing.assert_allclose(total(explained), [score.logit for score in explained.targets], atol=1e-4)
        assert await awaiting.list_models() == client.list_models()
        assert await awaiting.get_model() == client.get_model()


async def test_aio_client_raises_the_same_errors(server: support.ServerProcess, no_server: str) -> None:
    """Refused and unreachable."""
    async with AsyncClient(server.address, timeout_seconds=support.LONG_SECONDS) as client:
        with pytest.raises(NotFound):
            await client.explain(IMAGES[:1], model="flowers")
        with pytest.raises(InvalidRequest, match="image 0: "):
            [result async for result in client.classify_stream(aiter([IMAGES[0][:4]]))]
    async with AsyncClient(no_server, timeout_seconds=support.LONG_SECONDS) as client:
        with pytest.raises(Unavailable, match="no server answers"):
            await client.list_models()
