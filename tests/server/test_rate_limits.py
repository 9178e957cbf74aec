"""Token buckets of clients."""

import asyncio
from pathlib import Path

import grpc
import pytest
import support
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from headwise.bundle import read_manifest
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from headwise_server import rate_limits
from headwise_server.errors import RateLimited
from headwise_server.identity import Limits, anyone
from headwise_server.rate_limits import BURST_SECONDS, Buckets, RateLimits
from hypothesis import given
from hypothesis import strategies as st

RATES = st.floats(0.1, 1000)
STEPS = st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 50)), min_size=1, max_size=100)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.seconds


@given(RATES, STEPS)
def test_no_more_is_let_through_than_rate_and_burst(per_second: float, steps: list[tuple[float, float]]) -> None:
    """From the start on, over any pattern of requests; one that is larger than a bucket is let through once."""
    clock = Clock()
    buckets, taken, largest = Buckets(clock), 0.0, 0.0
    for pause, amount in steps:
        clock.seconds += pause
        if not buckets.wait_seconds("a", amount, per_second):
            buckets.take("a", amount, per_second)
            taken, largest = taken + amount, max(largest, amount)
    capacity = max(BURST_SECONDS * per_second, 1.0)
    assert taken <= (per_second * (clock.seconds - 1000.0) + capacity + largest) * (1 + 1e-9)


@given(RATES, STEPS)
def test_wait_is_exact(per_second: float, steps: list[tuple[float, float]]) -> None:
    """A refused request is let through after the time that it was given, and not before."""
    clock = Clock()
    buckets = Buckets(clock)
    for pause, amount in steps:
        clock.seconds += pause
        if seconds := buckets.wait_seconds("a", amount, per_second):
            began = clock.seconds
            clock.seconds = began + 0.99 * seconds - 1e-9
            assert buckets.wait_seconds("a", amount, per_second) > 0
            clock.seconds = began + seconds
            assert buckets.wait_seconds("a", amount, per_second) == pytest.approx(0, abs=1e-9)
        buckets.take("a", amount, per_second)


@given(st.lists(st.sampled_from("abc"), max_size=50))
def test_clients_do_not_share(clients: list[str]) -> None:
    """What one takes changes nothing for another."""
    buckets = Buckets(Clock())
    for client in clients:
        buckets.take(client, 1, 2)
    for client in "abc":
        assert (buckets.wait_seconds(client, 1, 2) > 0) == (clients.count(client) >= 2)


def test_full_buckets_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of clients that came once; and never are there more than a fixed number."""
    clock = Clock()
    buckets = Buckets(clock)
    for number in range(1000):
        clock.seconds += 0.1
        buckets.take(str(number), 1, 1)
    assert len(buckets) <= 11
    monkeypatch.setattr(rate_limits, "MAX_CLIENTS", 5)
    for number in range(1000):
        buckets.take(f"new {number}", 1, 1)
    assert len(buckets) == 5


def test_off_by_default() -> None:
    """Nothing is remembered then."""
    rates = RateLimits()
    for _ in range(1000):
        rates.take_call(anyone("ipv4:10.0.0.1:5"))
    asyncio.run(rates.take_images(anyone("ipv4:10.0.0.1:5"), 10**9, waits=False))
    assert not len(rates._calls) + len(rates._images)


def test_connections_of_one_address_are_one_client() -> None:
    """Another port is no other client; another address is."""
    rates = RateLimits(Limits(calls_per_second=1), Clock())
    rates.take_call(anyone("ipv4:10.0.0.1:5"))
    with pytest.raises(RateLimited):
        rates.take_call(anyone("ipv4:10.0.0.1:6"))
    rates.take_call(anyone("ipv4:10.0.0.2:5"))


async def test_streams_wait_instead() -> None:
    """Each for what came before it; the sum is what the rate allows."""
    rates = RateLimits(Limits(images_per_second=1000))
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(rates.take_images(anyone("a"), 500, waits=True) for _ in range(4)))
    assert asyncio.get_running_loop().time() - began >= 0.99


def image() -> pb.Image:
    """A black digit."""
    return pb.Image(tensor=pb.ImageTensor(height=8, width=8, channels=1, data=bytes(64)))


def test_server_says_when_to_come_back(repository: Path) -> None:
    """RESOURCE_EXHAUSTED with the reason RATE_LIMITED and a delay; health is never refused."""
    options = ["--engine", "onnxruntime", "--client-calls-per-second", "0.001", "--client-images-per-second", "0.001"]
    with support.running_server(repository, options) as server, grpc.insecure_channel(server.address) as channel:
        stub = HeadwiseServiceStub(channel)
        stub.ListModels(pb.ListModelsRequest(), timeout=support.LONG_SECONDS)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListModels(pb.ListModelsRequest(), timeout=support.LONG_SECONDS)
        status = rpc_status.from_call(caught.value)
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert [detail.Unpack(info) or detail.Unpack(retry) for detail in status.details] == [True, True]
        assert info.reason == "RATE_LIMITED"
        assert 900 < retry.retry_delay.ToSeconds() <= 1000


def test_images_of_a_call_count(repository: Path) -> None:
    """Together, once the call is parsed; the second call of two would be too many."""
    options = ["--engine", "onnxruntime", "--client-images-per-second", "0.001"]
    with support.running_server(repository, options) as server, grpc.insecure_channel(server.address) as channel:
        stub = HeadwiseServiceStub(channel)
        support.wait_until(lambda: stub.ListModels(pb.ListModelsRequest()).models if server else None)
        request = pb.ClassifyRequest(images=[image()] * 3)
        assert len(stub.Classify(request, timeout=support.LONG_SECONDS).classifications) == 3
        with pytest.raises(grpc.RpcError) as caught:
            stub.Classify(request, timeout=support.LONG_SECONDS)
        assert "images a second" in caught.value.details()


def test_further_inferences_of_an_explanation_count_as_images(repository: Path, bundle: Path) -> None:
    """One for each head that is removed and one for those that are silent, as the delay of the next call says."""
    heads = sum(shape.heads for shape in read_manifest(bundle).architecture.pruned_encoders)
    options = ["--engine", "onnxruntime", "--client-images-per-second", "0.001"]
    with support.running_server(repository, options) as server, grpc.insecure_channel(server.address) as channel:
        stub = HeadwiseServiceStub(channel)
        support.wait_until(lambda: stub.ListModels(pb.ListModelsRequest()).models if server else None)
        request = pb.ExplainRequest(images=[image()], causal=True, silenced_heads=[0])
        stub.Explain(request, timeout=support.LONG_SECONDS)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Classify(pb.ClassifyRequest(images=[image()]), timeout=support.LONG_SECONDS)
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in rpc_status.from_call(caught.value).details)
        assert 0.9 < retry.retry_delay.ToSeconds() / (1000 * (1 + heads + 1)) <= 1
