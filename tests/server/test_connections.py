"""Limits of connections, and what clients may see and change of a server: off unless they are asked for."""

import os
import socket
import struct
from pathlib import Path
from typing import Any

import grpc
import pytest
import support
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headwise import Client, InvalidRequest, Unavailable
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.open_inference.service_pb2_grpc import GRPCInferenceServiceStub
from headwise_server.receiving import COPIES
from headwise_server.settings import HANDED_OVER, PARTS_MIB
from headwise_server.tokens import sha256

SECONDS = support.LONG_SECONDS
SETTINGS_FRAME, MAX_CONCURRENT_STREAMS = 4, 3  # of RFC 9113
ENGINE = ("--engine", "onnxruntime")


def http2_settings(address: str) -> dict[int, int]:
    """The settings that a server sends to a new connection."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), SECONDS) as connection, connection.makefile("rb") as file:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + bytes([SETTINGS_FRAME]) + bytes(5))
        head = file.read(9)
        assert head[3] == SETTINGS_FRAME
        return dict(struct.iter_unpack(">HI", file.read(int.from_bytes(head[:3], "big"))))


def test_streams_of_a_connection_are_limited(repository: Path) -> None:
    """By HTTP/2: a client does not send more."""
    with support.running_server(repository, [*ENGINE, "--max-concurrent-streams", "7"]) as server:
        assert http2_settings(server.address)[MAX_CONCURRENT_STREAMS] == 7


def test_old_connections_are_closed(repository: Path) -> None:
    """After the age and the grace time even a stream that stands open ends; the client connects again by itself."""
    options = [*ENGINE, "--max-connection-age-seconds", "0.1", "--max-connection-age-grace-seconds", "0.1"]
    with support.running_server(repository, options) as server, grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS, wait_for_ready=True)


def test_channelz_is_there_on_request(repository: Path, server: support.ServerProcess) -> None:
    """And not otherwise."""
    request = channelz_pb2.GetServersRequest()
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channelz_pb2_grpc.ChannelzStub(channel).GetServers(request, timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with (
        support.running_server(repository, [*ENGINE, "--channelz"]) as open_server,
        grpc.insecure_channel(open_server.address) as channel,
    ):
        assert channelz_pb2_grpc.ChannelzStub(channel).GetServers(request, timeout=SECONDS).server


def test_least_memory_holds_the_largest_message(repository: Path) -> None:
    """A message as large as any may be is refused for what it is, not for want of memory."""
    options = [*ENGINE, "--max-message-mib", "1", "--memory-mib", str(COPIES + HANDED_OVER + 1 + PARTS_MIB)]
    with support.running_server(repository, options) as server, Client(server.address) as client:
        client.wait_until_ready(SECONDS)
        with pytest.raises(InvalidRequest, match=r"images\[0\]"):
            client.classify([bytes(2**20 - 100)])


def test_server_whose_models_are_all_unloaded_says_so(repository: Path) -> None:
    """Rather than that they are still loading; a client may ask another server."""
    options = [*ENGINE, "--repository-control"]
    with (
        support.running_server(repository, options) as server,
        grpc.insecure_channel(server.address) as channel,
        Client(server.address) as client,
    ):
        client.wait_until_ready(SECONDS)
        stub: Any = GRPCInferenceServiceStub(channel)
        stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="digits"), timeout=SECONDS)
        with pytest.raises(Unavailable, match="serves no model now: each was unloaded"):
            client.classify([bytes(64)])
        stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="digits"), timeout=SECONDS)
        with pytest.raises(InvalidRequest):
            client.classify([bytes(64)])


def test_models_are_loaded_and_unloaded_on_request(bundle: Path, tmp_path: Path) -> None:
    """With the action `repository` and the model's permission; a damaged bundle is said to be one."""
    for name in ("digits", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
        support.copy_bundle(bundle, tmp_path / "models", name)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        f"[tokens.keeper]\nsha256='{sha256('k')}'\nmodels=['digits', 'gone']\nactions=['repository', 'channelz']\n"
        f"[tokens.user]\nsha256='{sha256('u')}'\nmodels=['*']\nactions=['classify']\n"
    )
    options = [*ENGINE, "--repository-control", "--channelz", "--tokens", str(tokens)]
    with (
        support.running_server(tmp_path / "models", options) as server,
        grpc.insecure_channel(server.address) as channel,
        Client(server.address, token="u") as client,
    ):
        stub: Any = GRPCInferenceServiceStub(channel)
        channelz = channelz_pb2_grpc.ChannelzStub(channel)
        keeper, user = ((("authorization", f"Bearer {token}"),) for token in "ku")
        client.wait_until_ready(SECONDS)
        support.wait_until(lambda: len(client.list_models()) == 2)

        def status(method: Any, request: Any, metadata: Any) -> str:
            try:
                method(request, metadata=metadata, timeout=SECONDS)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

        load, unload = oip.RepositoryModelLoadRequest, oip.RepositoryModelUnloadRequest
        for name, metadata, expected in (
            ("digits", user, "PERMISSION_DENIED"),
            ("other", keeper, "PERMISSION_DENIED"),
            ("digits", (), "UNAUTHENTICATED"),
            ("gone", keeper, "NOT_FOUND"),
        ):
            assert status(stub.RepositoryModelUnload, unload(model_name=name), metadata) == expected
            assert status(stub.RepositoryModelLoad, load(model_name=name), metadata) == expected
        assert len(client.list_models()) == 2

        request = unload(model_name="digits")
        request.parameters["unload_dependents"].bool_param = False  # as Triton's client sends
        assert status(stub.RepositoryModelUnload, request, keeper) == "OK"
        assert [model.name for model in client.list_models()] == ["other"]
        assert status(stub.RepositoryModelLoad, load(model_name="digits"), keeper) == "OK"
        assert len(client.list_models()) == 2

        wrong = load(model_name="digits")
        wrong.parameters["config"].string_param = "{}"
        assert status(stub.RepositoryModelLoad, wrong, keeper) == "INVALID_ARGUMENT"
        assert status(stub.RepositoryModelUnload, unload(model_name="digits"), keeper) == "OK"
        weights = tmp_path / "models" / "digits" / "1" / "weights.bin"
        os.truncate(weights, 100)
        assert status(stub.RepositoryModelLoad, load(model_name="digits"), keeper) == "FAILED_PRECONDITION"

        for metadata, expected in (((), "UNAUTHENTICATED"), (user, "PERMISSION_DENIED"), (keeper, "OK")):
            assert status(channelz.GetServers, channelz_pb2.GetServersRequest(), metadata) == expected
