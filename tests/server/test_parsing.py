"""What parsing a message takes is known from its bytes."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import hypothesis.strategies as st
import processes
import pytest
import support
from google.protobuf.message import Message
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from headwise_server.errors import InvalidArgument
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.parsing import parsing_bytes
from hypothesis import given

MANY = 2**40
# Prints how many bytes a process grows by when it parses what is on its input.
PARSE = """
import os, sys
from headwise.v1 import service_pb2 as pb
from headwise_server.open_inference import service_pb2 as oip

kind = {"ModelInferRequest": oip.ModelInferRequest, "ClassifyRequest": pb.ClassifyRequest,
        "ExplainRequest": pb.ExplainRequest}[sys.argv[1]]
with open(sys.argv[2], "rb") as file:
    content = file.read()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
message = kind.FromString(content)
print(resident() - before)
"""


def delimited(number: int, content: bytes) -> bytes:
    """A field with content."""
    length, encoded = len(content), bytearray([number << 3 | 2])
    while length >= 128:
        encoded.append(length & 127 | 128)
        length >>= 7
    return bytes([*encoded, length]) + content


SIZE = 2**20 + 2**10  # a little more than a list of doubled size holds
LARGE: dict[str, tuple[type[Message], bytes]] = {
    "empty images": (pb.ClassifyRequest, delimited(3, b"") * (SIZE // 2)),
    "empty tensors": (pb.ClassifyRequest, delimited(3, delimited(2, b"")) * (SIZE // 4)),
    "empty labels": (pb.ExplainRequest, delimited(4, b"") * (SIZE // 2)),
    "an image": (pb.ClassifyRequest, delimited(3, delimited(1, bytes(4 * SIZE)))),
    "empty inputs": (oip.ModelInferRequest, delimited(5, b"") * (SIZE // 2)),
    "empty outputs": (oip.ModelInferRequest, delimited(6, b"") * (SIZE // 2)),
    "empty raw contents": (oip.ModelInferRequest, delimited(7, b"") * (SIZE // 2)),
    "raw contents": (oip.ModelInferRequest, delimited(7, bytes(4 * SIZE))),
    "pixels": (oip.ModelInferRequest, delimited(5, delimited(5, delimited(4, b"\1" * SIZE)))),
    "axes": (oip.ModelInferRequest, delimited(5, delimited(3, b"\1" * SIZE))),
    "axes one by one": (oip.ModelInferRequest, delimited(5, b"\x18\1" * (SIZE // 2))),
    "numbers": (oip.ModelInferRequest, delimited(5, delimited(5, delimited(7, bytes(SIZE))))),
    "empty files": (oip.ModelInferRequest, delimited(5, delimited(5, delimited(8, b"") * (SIZE // 2)))),
    "parameters": (
        oip.ModelInferRequest,
        b"".join(delimited(4, delimited(1, f"{number:x}".encode())) for number in range(SIZE // 8)),
    ),
    "unknown fields": (pb.ClassifyRequest, delimited(15, b"") * (SIZE // 2)),
}


@pytest.mark.parametrize("case", LARGE)
def test_process_grows_by_no_more_than_was_known(case: str, tmp_path: Path) -> None:
    """However the parser lays it out; and where it grows by much, the bound is not far."""
    kind, content = LARGE[case]
    (tmp_path / "content").write_bytes(content)
    arguments = [sys.executable, "-c", PARSE, kind.__name__, tmp_path / "content"]
    grown = int(processes.run(arguments, check=True).stdout)
    bound = parsing_bytes(content, kind.DESCRIPTOR, MANY)
    assert grown <= bound + 2**20
    assert bound <= 6 * grown


REQUESTS: Any = st.builds(
    oip.ModelInferRequest,
    model_name=st.text(),
    parameters=st.dictionaries(st.text(), st.builds(oip.InferParameter, int64_param=st.integers(0, 2**60)), max_size=3),
    inputs=st.lists(
        st.builds(
            oip.ModelInferRequest.InferInputTensor,
            shape=st.lists(st.integers(-(2**63), 2**63 - 1)),
            contents=st.builds(
                oip.InferTensorContents,
                fp32_contents=st.lists(st.floats(width=32)),
                bytes_contents=st.lists(st.binary()),
            ),
        ),
        max_size=4,
    ),
    raw_input_contents=st.lists(st.binary(), max_size=4),
)


def count_fields(message: Message) -> int:
    """Fields as the wire has them: elements of a list, packed numbers as one, entries of a map with what is inside."""
    count = 0
    for field, value in message.ListFields():
        if field.message_type and field.message_type.GetOptions().map_entry:
            count += sum(3 + count_fields(entry) for entry in value.values())
        elif field.is_repeated:
            is_packed = not hasattr(value, "add") and not isinstance(value[0], (bytes, str))
            count += 1 if is_packed else len(value)
            count += sum(map(count_fields, value)) if hasattr(value, "add") else 0
        else:
            count += 1 + (count_fields(value) if isinstance(value, Message) else 0)
    return count


@given(REQUESTS)
def test_fields_are_counted_as_they_stand_on_the_wire(request: oip.ModelInferRequest) -> None:
    """A message with as many as are allowed passes, one with more is refused."""
    content, fields = request.SerializeToString(), count_fields(request)
    assert parsing_bytes(content, request.DESCRIPTOR, fields) >= len(content) // 2
    if fields:
        with pytest.raises(InvalidArgument, match=f"expected at most {fields - 1} fields in all, found more"):
            parsing_bytes(content, request.DESCRIPTOR, fields - 1)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_bytes_that_are_no_message_are_measured_all_the_same(content: bytes, max_fields: int) -> None:
    """Never an error beside the one of too many fields; each field takes a byte at least."""
    if max_fields >= len(content):
        assert parsing_bytes(content, pb.ClassifyRequest.DESCRIPTOR, max_fields) < 2**16
    with suppress(InvalidArgument):
        parsing_bytes(content, oip.ModelInferRequest.DESCRIPTOR, max_fields)


def test_large_content_is_not_looked_at() -> None:
    """Only the fields are: a photo of 100 MiB is measured at once."""
    content = delimited(3, delimited(1, bytes(100 * 2**20)))
    assert parsing_bytes(content, pb.ClassifyRequest.DESCRIPTOR, 2) < 101 * 2**20


@pytest.mark.parametrize(
    "method", ["headwise.v1.HeadwiseService/Classify", "inference.GRPCInferenceService/ModelInfer"]
)
def test_server_does_not_parse_a_message_of_empty_ones(server: support.ServerProcess, method: str) -> None:
    """Two MiB that would become a hundred: refused by the field `request`, and the next call is answered."""
    number = 3 if method.endswith("Classify") else 5
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(delimited(number, b"") * 2**20, timeout=support.LONG_SECONDS)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "request: expected at most 24576 fields in all, found more" in caught.value.details()
        assert HeadwiseServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=support.LONG_SECONDS).models


def test_stream_ends_with_a_message_of_empty_ones(server: support.ServerProcess) -> None:
    """After the answers to those before it."""
    item = pb.ClassifyStreamRequest(request_id="first").SerializeToString()
    bad = delimited(1, delimited(3, b"") * 2**20)
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream("/headwise.v1.HeadwiseService/ClassifyStream")
        replies = call(iter([item, bad]), timeout=support.LONG_SECONDS)
        assert pb.ClassifyStreamResponse.FromString(next(replies)).request_id == "first"
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
