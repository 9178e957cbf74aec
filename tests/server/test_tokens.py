"""Bearer tokens: the file, and real servers that ask for them."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certificates
import grpc
import numpy as np
import processes
import pytest
import support
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from headwise import AsyncClient, Client, NotFound, PermissionDenied, Unauthenticated
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from headwise_server import errors
from headwise_server.identity import Action, Limits
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.open_inference.service_pb2_grpc import GRPCInferenceServiceStub
from headwise_server.tokens import Tokens, TokensError, make_token, read, sha256
from hypothesis import given
from hypothesis import strategies as st

SECONDS = support.LONG_SECONDS
IMAGE = np.zeros((8, 8, 1), np.uint8)


def write(path: Path, **permissions: tuple[str, list[str], list[str]]) -> Path:
    """A file of tokens by name: token, models, actions."""
    path.write_text(
        "".join(
            f"[tokens.{name}]\nsha256 = '{sha256(token)}'\nmodels = {models}\nactions = {actions}\n"
            for name, (token, models, actions) in permissions.items()
        )
    )
    return path


@dataclass
class Guarded:
    """A server with models `digits` and `other`, and tokens `all`, `digits` and `classify`."""

    address: str
    process: support.ServerProcess
    file: Path

    def stub(self, token: str | None, kind: Any = HeadwiseServiceStub) -> tuple[Any, dict[str, Any]]:
        """A stub, and what each call gets."""
        metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        return kind(grpc.insecure_channel(self.address)), {"metadata": metadata, "timeout": SECONDS}


@pytest.fixture(scope="module")
def guarded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server that asks for tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    for name in ("digits", "other"):
        (folder / "models" / name).mkdir(parents=True)
        support.copy_bundle(bundle, folder / "models", name)
    file = write(
        folder / "tokens.toml",
        all=("a", ["*"], ["classify", "explain"]),
        digits=("d", ["digits", "not-there"], ["classify", "explain"]),
        classify=("c", ["digits"], ["classify"]),
    )
    options = ["--engine", "onnxruntime", "--tokens", str(file)]
    with support.running_server(folder / "models", options) as running:
        with Client(running.address, token="a") as client:
            client.wait_until_ready(SECONDS)
        yield Guarded(running.address, running, file)


def test_each_token_has_what_it_permits(guarded: Guarded) -> None:
    """Models and actions; a name alone may be left out where one is permitted, and others are not told of."""
    with Client(guarded.address, token="a") as client:
        assert [model.name for model in client.list_models()] == ["digits", "other"]
        assert client.classify([IMAGE], model="other")
        with pytest.raises(NotFound):
            client.classify([IMAGE], model="gone")
    with Client(guarded.address, token="d") as client:
        assert [model.name for model in client.list_models()] == ["digits"]
        assert client.classify([IMAGE])[0].model.name == "digits"
        assert client.explain([IMAGE])
        assert list(client.classify_stream([IMAGE] * 3))
        for model in ("other", "gone"):
            with pytest.raises(PermissionDenied, match="'digits' permits, found"):
                client.classify([IMAGE], model=model)
            with pytest.raises(PermissionDenied):
                client.get_model(model)
            with pytest.raises(PermissionDenied):
                list(client.classify_stream([IMAGE], model=model))
        with pytest.raises(NotFound) as caught:
            client.classify([IMAGE], model="not-there")
        assert "other" not in str(caught.value)
    with Client(guarded.address, token="c") as client:
        assert client.classify([IMAGE])
        with pytest.raises(PermissionDenied, match=r"\(classify\), found 'explain'"):
            client.explain([IMAGE])


def test_open_inference_protocol_asks_for_the_same(guarded: Guarded) -> None:
    """Index, metadata, statistics and inference; only whether the server lives and is ready is open."""
    stub, call = guarded.stub("c", GRPCInferenceServiceStub)
    index = stub.RepositoryIndex(oip.RepositoryIndexRequest(), **call)
    assert {model.name for model in index.models} == {"digits", "digits.explain"}
    statistics = stub.ModelStatistics(oip.ModelStatisticsRequest(), **call)
    assert {model.name for model in statistics.model_stats} == {"digits", "digits.explain"}
    for name in ("other", "other.explain", "gone"):
        for method, request in (
            (stub.ModelMetadata, oip.ModelMetadataRequest(name=name)),
            (stub.ModelConfig, oip.ModelConfigRequest(name=name)),
            (stub.ModelReady, oip.ModelReadyRequest(name=name)),
            (stub.ModelStatistics, oip.ModelStatisticsRequest(name=name)),
            (stub.ModelInfer, oip.ModelInferRequest(model_name=name)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                method(request, **call)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED, (name, method)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(oip.ModelInferRequest(model_name="digits.explain"), **call)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    stub, call = guarded.stub(None, GRPCInferenceServiceStub)
    assert stub.ServerLive(oip.ServerLiveRequest(), **call).live
    assert stub.ServerReady(oip.ServerReadyRequest(), **call).ready
    with pytest.raises(grpc.RpcError) as caught:
        stub.ServerMetadata(oip.ServerMetadataRequest(), **call)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "metadata",
    [(), (("authorization", "Bearer x"),), (("authorization", "Basic a"),), (("authorization", "Bearer a"),) * 2],
)
def test_calls_without_a_token_are_refused(guarded: Guarded, metadata: tuple[tuple[str, str], ...]) -> None:
    """Every method of our services, with details and the header of HTTP; before the message is looked at."""
    with grpc.insecure_channel(guarded.address) as channel:
        for method in ("Classify", "Explain", "GetModel", "ListModels"):
            call = channel.unary_unary(f"/headwise.v1.HeadwiseService/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\xff no protobuf", metadata=metadata, timeout=SECONDS)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            info = error_details_pb2.ErrorInfo()
            assert rpc_status.from_call(caught.value).details[0].Unpack(info)
            assert info.reason == "UNAUTHENTICATED"
            assert dict(caught.value.trailing_metadata())["www-authenticate"] == 'Bearer realm="headwise"'
        with pytest.raises(grpc.RpcError) as caught:
            list(HeadwiseServiceStub(channel).ClassifyStream(iter([pb.ClassifyStreamRequest()]), metadata=metadata))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_client_says_what_to_do_without_a_token(guarded: Guarded) -> None:
    """Both clients, as an error of their own."""
    with Client(guarded.address) as client, pytest.raises(Unauthenticated, match="authorization: Bearer TOKEN"):
        client.list_models()
    async with AsyncClient(guarded.address, token="wrong") as awaiting:
        with pytest.raises(Unauthenticated, match="a token that this server knows"):
            await awaiting.list_models()
    async with AsyncClient(guarded.address, token="c") as awaiting:
        assert await awaiting.classify([IMAGE])


def test_command_takes_its_token_from_the_environment_or_a_file(guarded: Guarded, tmp_path: Path) -> None:
    """Status 2 and what to do where the server does not take it, or it would be sent in plain text elsewhere."""
    command = [sys.executable, "-m", "headwise", "models", "--server", guarded.address]
    file = tmp_path / "token"
    file.write_text("d\n")

    def run(*options: str, **variables: str) -> processes.Completed:
        return processes.run([*command, *options], env={**os.environ, **variables})

    assert "digits" in run(HEADWISE_TOKEN="d").stdout
    assert "digits" in run("--token-file", str(file)).stdout
    for refused, message in (
        (run(), "expected a token, found none"),
        (run(HEADWISE_TOKEN="x"), "a token that this server knows"),
        (run("--server", "example.org:1", HEADWISE_TOKEN="d"), "expected TLS to example.org:1"),
        (run("--token-file", str(tmp_path / "gone")), "cannot be read: No such file or directory"),
    ):
        assert refused.returncode == 2
        assert message in " ".join(refused.stderr.replace("│", " ").split())
        assert "Traceback" not in refused.stderr


def test_load_is_sent_with_a_token(guarded: Guarded) -> None:
    """As any other call; without one nothing is measured."""
    command = [sys.executable, "-m", "headwise", "load", "--server", guarded.address, "--model", "digits"]
    options = ["--closed", "1", "--seconds", "0.2"]
    assert processes.run([*command, *options], env={**os.environ, "HEADWISE_TOKEN": "d"}).returncode == 0
    refused = processes.run([*command, *options])
    assert refused.returncode == 2
    assert "expected a token" in refused.stderr


def test_health_is_open_and_reflection_is_not(guarded: Guarded) -> None:
    """Balancers ask for health; what services there are is for those with a token."""
    with grpc.insecure_channel(guarded.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(service="digits"), timeout=SECONDS)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            list(ProtoReflectionDescriptorDatabase(channel).get_services())
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        assert list(reflect(iter([b":\x00"]), metadata=(("authorization", "bearer c"),), timeout=SECONDS))


def test_changed_file_counts_without_a_new_start(repository: Path, tmp_path: Path) -> None:
    """A broken one keeps the tokens and says so; with a good one old tokens are out and new ones in."""
    file = write(tmp_path / "t.toml", alice=("old", ["*"], ["classify"]))
    options = ["--engine", "onnxruntime", "--tokens", str(file)]
    with support.running_server(repository, options) as server:
        with Client(server.address, token="old") as old, Client(server.address, token="new") as new:
            old.wait_until_ready(SECONDS)
            file.write_text("broken")
            support.wait_until(lambda: any("the tokens stay as they are" in line for line in server.log))
            assert old.list_models()
            write(file, alice=("new", ["*"], ["classify"]))

            def is_in() -> bool:
                try:
                    return bool(new.list_models())
                except Unauthenticated:
                    return False

            support.wait_until(is_in)
            with pytest.raises(Unauthenticated):
                old.list_models()
        assert not any("old" in line or "new" in line.split() for line in server.log if "token" not in line)


def test_new_token_is_printed_once(repository: Path, tmp_path: Path) -> None:
    """On stderr; stdout is a file for the server that knows it."""
    made = processes.run([*support.server_command(repository)[:-2], "--make-token", "alice"], check=True)
    token = made.stderr.split()[-1]
    assert token not in made.stdout
    file = tmp_path / "tokens.toml"
    file.write_text(made.stdout)
    identity = Tokens(file, Limits()).identify([f"Bearer {token}"])
    assert (identity.client, identity.models) == ("alice", None)
    assert identity.actions == {Action.CLASSIFY, Action.EXPLAIN}
    assert make_token("a")[0] != make_token("a")[0]
    assert len(make_token("a")[0]) > 43
    with pytest.raises(TokensError, match="expected a name"):
        make_token("a b")


@pytest.mark.parametrize(
    ("listen", "tls", "allowed", "starts"),
    [
        ("127.0.0.1:0", False, False, True),
        ("0.0.0.0:0", False, False, False),
        ("0.0.0.0:0", False, True, True),
        ("0.0.0.0:0", True, False, True),
    ],
)
def test_tokens_need_tls_beyond_this_machine(
    repository: Path, tmp_path: Path, listen: str, tls: bool, allowed: bool, starts: bool
) -> None:
    """Unless plain text is allowed by name."""
    file = write(tmp_path / "t.toml", alice=("t", ["*"], []))
    options = ["--tokens", str(file), "--listen", listen, "--show-settings"]
    options += certificates.Authority(tmp_path).sign("s").options() if tls else []
    options += ["--allow-plaintext-tokens"] if allowed else []
    process = processes.run([*support.server_command(repository), *options])
    assert process.returncode == (0 if starts else 2)
    assert starts or "expected TLS" in process.stderr


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(min_size=1), max_size=8), st.text())
def test_a_token_is_known_by_its_hash_alone(tmp_path_factory: Any, tokens: dict[str, str], other: str) -> None:
    """Whatever tokens there are, each is its owner's, and no other text is."""
    tokens = {name: token.strip() for name, token in tokens.items() if token.strip()}
    path = tmp_path_factory.mktemp("t") / "t.toml"
    if len(set(tokens.values())) < len(tokens) or not tokens:
        return
    known = Tokens(write(path, **{name: (token, ["*"], []) for name, token in tokens.items()}), Limits())
    for name, token in tokens.items():
        assert known.identify([f"Bearer {token}"]).client == name
    if other.strip() not in tokens.values():
        with pytest.raises(errors.Unauthenticated):
            known.identify([f"Bearer {other}"])


def test_own_limits_go_before_those_of_all(tmp_path: Path) -> None:
    """One by one; 0 is no limit."""
    path = write(tmp_path / "t.toml", alice=("t", ["*"], []))
    path.write_text(path.read_text() + "calls_per_second = 0\n")
    assert Tokens(path, Limits(5, 6)).identify(["Bearer t"]).limits == Limits(0, 6)


HASH = sha256("t")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[tokens.a", "expected a TOML file"),
        ("a = " + "[" * 10_000, "expected a TOML file"),
        ("[token.a]", "tokens: Field required"),
        ("[tokens.a]\nsha256 = 'secret'\nmodels = []\nactions = []", "tokens.a.sha256"),
        (f"[tokens.a]\nsha256 = '{HASH}'\nactions = []", "tokens.a.models"),
        (f"[tokens.a]\nsha256 = '{HASH}'\nmodels = []\nactions = ['fly']", "tokens.a.actions"),
        (f"[tokens.a]\nsha256 = '{HASH}'\nmodels = []\nactions = []\nlevel = 3", "tokens.a.level"),
        (f"[tokens.'a b']\nsha256 = '{HASH}'\nmodels = []\nactions = []", "tokens.a b"),
        ("".join(f"[tokens.{n}]\nsha256 = '{HASH}'\nmodels = []\nactions = []\n" for n in "ab"), "with the same"),
        ("#" * (2**20 + 1), "expected at most"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, content: str, expected: str) -> None:
    """In one line that names the file and the place, and shows no value."""
    path = tmp_path / "t.toml"
    path.write_text(content)
    with pytest.raises(TokensError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert expected in message
    assert "\n" not in message
    assert "secret" not in message
    with pytest.raises(TokensError, match="cannot be read"):
        read(tmp_path / "gone")
