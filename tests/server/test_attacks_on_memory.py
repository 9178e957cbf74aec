"""Uploads and photos that are meant to take memory: it stays within what the options state.

The most that a server takes beside its models is `--memory-mib`, and `--decoding-mib` where images are decoded, and
what gRPC and the allocator keep in reserve: RESERVE_MIB, or SLACK_MIB where many threads decode.
"""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import support
from gated import Gates, gated_server
from google.rpc import code_pb2
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from hostile import (
    MIB,
    SECONDS,
    Known,
    Outcome,
    answer,
    golden_set,
    growth_below,
    outcome,
    own_channel,
    padded,
    ready,
    stalling_proxy,
)
from PIL import Image

SLACK_MIB, RESERVE_MIB = 160, 96
UPLOADS = 40
LARGEST_MIB = 31  # of a message that is still taken


@pytest.fixture(scope="module")
def known(bundle: Path) -> Known:
    """Images with their logits."""
    return golden_set(bundle)


def classify(address: str, request: pb.ClassifyRequest) -> Outcome | pb.ClassifyResponse:
    """The reply to a request over a connection of its own, or how it failed."""
    with own_channel(address) as channel:
        try:
            reply: pb.ClassifyResponse = HeadwiseServiceStub(channel).Classify(request, timeout=SECONDS)
        except grpc.RpcError as error:
            return outcome(error)
    return reply


def classify_in_stream(address: str, request: pb.ClassifyRequest) -> Outcome:
    """The error in which a stream of one request ends, or with which it answers that, over a connection of its own."""
    requests = iter([pb.ClassifyStreamRequest(request=request)])
    with own_channel(address) as channel:
        try:
            [reply] = HeadwiseServiceStub(channel).ClassifyStream(requests, timeout=SECONDS)
        except grpc.RpcError as error:
            return outcome(error)
    name = code_pb2.Code.Name(reply.error.code)
    return Outcome(name, "OVERLOADED", 0) if name == "RESOURCE_EXHAUSTED" else Outcome(name)


def in_time(address: str, known: Known, times: int = 10) -> list[Outcome]:
    """What another client gets."""
    with own_channel(address) as channel:
        return [answer(HeadwiseServiceStub(channel).Classify, known, number) for number in range(times)]


@pytest.mark.parametrize("send", [classify, classify_in_stream])
def test_large_junk_from_many_clients_stays_within_the_budget(
    repository: Path, known: Known, send: Callable[[str, pb.ClassifyRequest], object]
) -> None:
    """40 times 31 MiB at once: refused for want of room or as no image, while another client is answered."""
    junk = pb.ClassifyRequest(images=[pb.Image(encoded=np.random.default_rng(0).bytes(LARGEST_MIB * MIB))])
    arguments = ("--engine", "onnxruntime", "--memory-mib", "256", "--decoding-mib", "64")
    with support.running_server(repository, arguments) as running, ThreadPoolExecutor(UPLOADS) as pool:
        ready(running)
        with growth_below(running, 256 + RESERVE_MIB):
            attacks = [pool.submit(send, running.address, junk) for _ in range(UPLOADS)]
            assert {item.code for item in in_time(running.address, known) if not item.is_refusal} == {"OK"}
            for attack in attacks:
                refused = attack.result(SECONDS)
                assert isinstance(refused, Outcome)
                assert refused.is_refusal or refused.code == "INVALID_ARGUMENT"
        assert in_time(running.address, known) == [Outcome("OK")] * 10


def test_half_uploaded_requests_stay_within_the_budget(repository: Path, known: Known) -> None:
    """Of 40 clients that stop after 30 MiB, as many as there is room for are waited for; others are answered.

    Of 256 MiB 96 are kept for what comes in its turn, and slow uploads leave 64 for what one of them needs when it is
    there. One that is complete while another has these is refused as late as that.
    """
    waited_for = (256 - 96 - 64) // 32
    file = padded(support.png(np.full((8, 8, 1), 7, np.uint8)), LARGEST_MIB * MIB)
    request = pb.ClassifyRequest(images=[pb.Image(encoded=file)])
    arguments = ("--engine", "onnxruntime", "--memory-mib", "256", "--decoding-mib", "128")
    with support.running_server(repository, arguments) as running, ThreadPoolExecutor(UPLOADS) as pool:
        ready(running)
        with growth_below(running, 256 + RESERVE_MIB), stalling_proxy(running, 30 * MIB) as proxy:
            attacks = [pool.submit(classify, proxy.address, request) for _ in range(UPLOADS)]
            support.wait_until(lambda: sum(attack.done() for attack in attacks) == UPLOADS - waited_for)
            slow = [attack for attack in attacks if not attack.done()]
            assert in_time(running.address, known) == [Outcome("OK")] * 10
            proxy.release()
            refused = [attack.result(SECONDS) for attack in attacks if attack not in slow]
            answers = [attack.result(SECONDS) for attack in slow]
        plain = pb.ClassifyRequest(images=[pb.Image(encoded=support.png(np.full((8, 8, 1), 7, np.uint8)))])
        expected = classify(running.address, plain)
    assert isinstance(expected, pb.ClassifyResponse)
    right = [item.classifications for item in answers if isinstance(item, pb.ClassifyResponse)]
    refused += [item for item in answers if isinstance(item, Outcome)]
    assert right in ([expected.classifications] * count for count in range(1, waited_for + 1))
    assert all(isinstance(item, Outcome) and item.is_refusal for item in refused)


def photo(side: int, kind: str) -> bytes:
    """A large image of one colour, which takes few bytes."""
    content = io.BytesIO()
    Image.new("RGBA", (side, side), (40, 40, 40, 255)).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_image_that_takes_more_than_may_be_is_refused_with_both_figures(repository: Path, kind: str) -> None:
    """What it would take, and what it may."""
    with support.running_server(repository, ("--engine", "onnxruntime", "--decoding-mib", "16")) as running:
        ready(running)
        with growth_below(running, 16):
            refused = classify(running.address, pb.ClassifyRequest(images=[pb.Image(encoded=photo(3000, kind))]))
    assert isinstance(refused, Outcome)
    assert (refused.code, refused.fields) == ("INVALID_ARGUMENT", ("images[0].encoded",))
    assert "takes at most 16 MiB to decode, found one that takes" in refused.message


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_many_large_images_at_once_stay_within_the_budget(repository: Path, known: Known, kind: str) -> None:
    """40 of 4 million pixels each, from 8 clients: all are answered, and right."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=photo(2000, kind))] * 5)
    plain = pb.ClassifyRequest(
        images=[pb.Image(tensor=pb.ImageTensor(height=8, width=8, channels=1, data=b"\x28" * 64))]
    )
    arguments = ("--engine", "onnxruntime", "--decoding-mib", "256", "--streams", "8")
    with support.running_server(repository, arguments) as running, ThreadPoolExecutor(8) as pool:
        ready(running)
        expected = classify(running.address, plain)
        assert isinstance(expected, pb.ClassifyResponse)
        with growth_below(running, 256 + SLACK_MIB):
            replies = [*pool.map(classify, [running.address] * 8, [request] * 8)]
    for reply in replies:
        assert isinstance(reply, pb.ClassifyResponse)
        assert len(reply.classifications) == 5
        logits = [np.frombuffer(item.logits, "<f4") for item in reply.classifications]
        np.testing.assert_allclose(logits, [np.frombuffer(expected.classifications[0].logits, "<f4")] * 5, atol=1e-4)


def test_tensors_are_answered_while_photos_wait(repository: Path, known: Known, tmp_path: Path) -> None:
    """Decoding stands still under photos from another client; afterwards these are answered as well."""
    file = support.png(np.full((8, 8, 1), 7, np.uint8))
    request, gates = pb.ClassifyRequest(images=[pb.Image(encoded=file)] * 10), Gates(tmp_path)
    with gated_server(repository, gates) as running, ThreadPoolExecutor(20) as pool:
        ready(running)
        gates.close("decode")
        photos = [pool.submit(classify, running.address, request) for _ in range(20)]
        support.wait_until(lambda: running.log.count("decoding\n"))
        assert in_time(running.address, known) == [Outcome("OK")] * 10
        assert not any(item.done() for item in photos)
        gates.open("decode")
        replies = [item.result(SECONDS) for item in photos]
    assert all(isinstance(reply, pb.ClassifyResponse) and len(reply.classifications) == 10 for reply in replies)
    logits = {
        item.logits for reply in replies if isinstance(reply, pb.ClassifyResponse) for item in reply.classifications
    }
    assert len(logits) == 1


def test_small_images_beyond_what_may_wait_are_refused(repository: Path, known: Known, tmp_path: Path) -> None:
    """However many calls look at the headers of theirs at the same time, while none waits yet: those of four fit."""
    file, gates = support.png(np.full((8, 8, 1), 7, np.uint8)), Gates(tmp_path)
    request = pb.ClassifyRequest(images=[pb.Image(encoded=file)] * 64)
    with gated_server(repository, gates, "--max-queue", "256") as running, ThreadPoolExecutor(100) as pool:
        ready(running)
        gates.close("header")
        gates.close("decode")
        calls = [pool.submit(classify, running.address, request) for _ in range(100)]
        support.wait_until(lambda: running.log.count("files\n") == len(calls))
        gates.open("header")
        support.wait_until(lambda: sum(call.done() for call in calls) >= 96)
        gates.open("decode")
        results = [call.result(SECONDS) for call in calls]
    refused = [item for item in results if isinstance(item, Outcome)]
    assert all(item.is_refusal for item in refused)
    assert len(refused) == 96
