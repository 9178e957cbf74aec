"""The clients against a real server: the same results from the sync and the aio one."""

import io
import itertools
import socket
import time
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
    Overloaded,
    TooLarge,
    Unavailable,
)
from headwise.bundle import read_manifest
from headwise.v1 import service_pb2 as pb
from headwise_server import errors
from headwise_server.errors import ServiceError
from PIL import Image
from scripted import Answer, ScriptedServer

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


def test_array_of_another_size_is_resized_by_the_server(client: Client) -> None:
    """As the same pixels in a file are; a colour array for a grey model too."""
    pixels = np.random.default_rng(2).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    from_array, from_file, from_pil = client.classify([pixels, file.getvalue(), Image.fromarray(pixels)])
    assert from_array == from_file == from_pil


def test_one_image_needs_no_list(client: Client) -> None:
    """An array, or a path."""
    assert len(client.classify(IMAGES[0])) == len(client.explain(IMAGES[0])) == 1
    assert client.classify(np.stack(IMAGES)) == client.classify(IMAGES)


def test_images_of_more_than_one_message_go_in_several_calls(client: Client) -> None:
    """The server takes 4 MiB in a call; each image is answered once, in order."""
    padded = [noisy_png(number) for number in range(7)]
    assert sum(map(len, padded)) > 4 * 2**20
    results = client.classify(padded)
    assert results == [client.classify(image)[0] for image in padded]


def noisy_png(seed: int) -> bytes:
    """About 700 KiB."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (490, 490, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


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
        ([bytes(5 * 2**20)], {}, TooLarge, "larger than max .*: send fewer or smaller images in one call"),
    ],
)
def test_refused_call_says_what_was_expected(
    client: Client, images: list[Any], options: dict[str, str], error: type[HeadwiseError], message: str
) -> None:
    """The server's words, as an error of ours that names what the caller can do."""
    with pytest.raises(error, match=message) as caught:
        client.classify(images, **options)
    assert type(caught.value) is error


def classified(images: int = 1) -> pb.ClassifyResponse:
    """A reply."""
    return pb.ClassifyResponse(classifications=[pb.Classification()] * images)


def refuses(*refusals: ServiceError) -> Answer:
    """One after the other, then an answer."""

    def answer(number: int, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        if number <= len(refusals):
            context.abort_with_status(refusals[number - 1].grpc_status())
        return classified()

    return answer


def test_call_is_repeated_where_that_is_asked_for(scripted_server: ScriptedServer) -> None:
    """After as long as the server says; by default the refusal is the caller's, with the time."""
    scripted_server.answer = refuses(errors.Overloaded("full", 0.2), errors.NotReady("loading"))
    started = time.monotonic()
    with Client(scripted_server.address, retries=2, timeout_seconds=support.LONG_SECONDS) as client:
        assert len(client.classify([b"x"])) == 1
    assert scripted_server.calls == 3
    assert time.monotonic() - started >= 0.2
    scripted_server.answer = refuses(*[errors.Overloaded("full", 0.2)] * 9)
    with Client(scripted_server.address) as client, pytest.raises(Overloaded) as caught:
        client.classify([b"x"])
    assert caught.value.retry_seconds == 0.2


@pytest.mark.parametrize(
    ("refusal", "timeout_seconds", "calls"),
    [
        (errors.Overloaded("full", 60.0), 30.0, 1),
        (errors.InvalidArgument("images", "no"), support.LONG_SECONDS, 1),
        (errors.Overloaded("full", 0.01), support.LONG_SECONDS, 4),
    ],
    ids=["no time for it", "does not pass", "as often as asked for"],
)
def test_call_is_not_repeated_in_vain(
    scripted_server: ScriptedServer, refusal: ServiceError, timeout_seconds: float, calls: int
) -> None:
    """Beyond its timeout, or where the request is wrong; and no more often than asked for."""
    scripted_server.answer = refuses(*[refusal] * 9)
    client = Client(scripted_server.address, retries=3, timeout_seconds=timeout_seconds)
    with client, pytest.raises(HeadwiseError):
        client.classify([b"x"])
    assert scripted_server.calls == calls


async def test_aio_client_repeats_calls_too(scripted_server: ScriptedServer) -> None:
    """By the same rules."""
    scripted_server.answer = refuses(errors.Overloaded("full", 0.01))
    async with AsyncClient(scripted_server.address, retries=1, timeout_seconds=support.LONG_SECONDS) as client:
        assert len(await client.classify([b"x"])) == 1


def test_image_that_cannot_be_read_is_an_error_after_those_before_it(client: Client) -> None:
    """Its own error, and not what gRPC makes of it."""
    results = client.classify_stream([IMAGES[0], IMAGES[1], "/nonexistent.png", IMAGES[2]])
    assert next(results).top
    assert next(results).top
    with pytest.raises(FileNotFoundError):
        next(results)


def test_stream_that_ends_short_is_an_error(scripted_server: ScriptedServer) -> None:
    """A server that goes away half-way has not answered all."""
    scripted_server.stream = lambda requests: itertools.islice((classified() for _ in requests), 2)
    with Client(scripted_server.address) as client:
        results = client.classify_stream([b"x"] * 2)
        assert len(list(results)) == 2
        results = client.classify_stream([b"x"] * 5)
        with pytest.raises(Unavailable, match=r"the server ended the stream after 2 of \d images"):
            list(results)


def test_silent_server_ends_a_stream(scripted_server: ScriptedServer) -> None:
    """Within the timeout of a call; a caller that takes its time does not."""

    def stream(requests: Iterator[Any]) -> Iterator[pb.ClassifyResponse]:
        for number, _ in enumerate(requests):
            if number == 2:
                time.sleep(support.LONG_SECONDS)
            yield classified()

    scripted_server.stream = stream

    def slowly() -> Iterator[bytes]:
        for _ in range(3):
            time.sleep(0.6)
            yield b"x"

    with Client(scripted_server.address, timeout_seconds=0.5) as client:
        results = client.classify_stream(slowly())
        assert next(results)
        assert next(results)
        with pytest.raises(DeadlineExceeded, match=r"expected an answer to image 2 within 0.5 s, found none"):
            next(results)


async def test_aio_stream_fails_as_the_sync_one_does(scripted_server: ScriptedServer) -> None:
    """Silent, short, and with an image that cannot be read."""

    async def images(*values: Any) -> AsyncIterator[Any]:
        for value in values:
            yield value

    async with AsyncClient(scripted_server.address, timeout_seconds=0.5) as client:
        scripted_server.stream = lambda requests: (classified() for _ in requests)
        answered = []
        with pytest.raises(FileNotFoundError):
            async for result in client.classify_stream(images(b"x", "/nonexistent.png")):
                answered.append(result)
        assert len(answered) == 1
        scripted_server.stream = lambda requests: itertools.islice((classified() for _ in requests), 1)
        with pytest.raises(Unavailable, match="ended the stream after 1 of"):
            [result async for result in client.classify_stream(images(b"x", b"x", b"x"))]
        scripted_server.stream = lambda requests: (time.sleep(3) or classified() for _ in requests)
        with pytest.raises(DeadlineExceeded, match="expected an answer to image 0"):
            [result async for result in client.classify_stream(images(b"x"))]


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


async def test_aio_client_waits_until_models_are_served(server: support.ServerProcess, no_server: str) -> None:
    """As the sync one does."""
    async with AsyncClient(server.address) as client:
        await client.wait_until_ready(support.LONG_SECONDS)
    async with AsyncClient(no_server) as client:
        with pytest.raises(Unavailable, match="no server answers"):
            await client.wait_until_ready(0.3)


async def test_aio_client_raises_the_same_errors(server: support.ServerProcess, no_server: str) -> None:
    """Refused and unreachable."""
    async with AsyncClient(server.address, timeout_seconds=support.LONG_SECONDS) as client:
        with pytest.raises(NotFound):
            await client.explain(IMAGES[:1], model="flowers")
        with pytest.raises(InvalidRequest, match="image 0: "):
            [result async for result in client.classify_stream(aiter([b"no image"]))]
    async with AsyncClient(no_server, timeout_seconds=support.LONG_SECONDS) as client:
        with pytest.raises(Unavailable, match="no server answers"):
            await client.list_models()
