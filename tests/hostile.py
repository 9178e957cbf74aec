"""What tests of attacks on a server share: clients that check replies, a stalling proxy, a process's memory."""

import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import support
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from headwise import Client
from headwise.v1 import service_pb2 as pb
from wire import tensor

SECONDS = support.LONG_SECONDS
OWN_CONNECTION = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
MIB = 2**20


def own_channel(address: str) -> grpc.Channel:
    """A connection that is shared with no other channel, with no limit to messages."""
    return grpc.insecure_channel(address, options=OWN_CONNECTION)


def padded(png: bytes, size_bytes: int) -> bytes:
    """The same image, with a private chunk of so many bytes."""
    after_header = 33
    chunk = b"prVt" + bytes(size_bytes)
    padding = struct.pack(">I", size_bytes) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:after_header] + padding + png[after_header:]


@dataclass(frozen=True)
class Known:
    """Images, and the logits that the exporter states for each."""

    images: list[pb.Image]
    logits_NK: np.ndarray

    def request(self, *numbers: int) -> pb.ClassifyRequest:
        """A request of some of the images; numbers beyond the last begin again."""
        return pb.ClassifyRequest(images=[self.images[number % len(self.images)] for number in numbers])

    def is_right(self, reply: pb.ClassifyResponse, *numbers: int) -> bool:
        """Whether it answers `request` of the same numbers."""
        logits_NK = np.array([np.frombuffer(item.logits, "<f4") for item in reply.classifications])
        expected_NK = self.logits_NK[[number % len(self.images) for number in numbers]]
        return logits_NK.shape == expected_NK.shape and np.allclose(logits_NK, expected_NK, rtol=0, atol=1e-4)


def golden_set(bundle: Path) -> Known:
    """Of a bundle."""
    with np.load(bundle / "golden.npz") as golden:
        return Known([tensor(image_YXC) for image_YXC in golden["images"]], golden["logits"])


def ready(server: support.ServerProcess) -> None:
    """Wait until it serves."""
    with Client(server.address, timeout_seconds=SECONDS) as client:
        client.wait_until_ready(SECONDS)


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    code: str  # "OK", or "wrong" for a reply that is not the one expected
    reason: str = ""  # of the server's ErrorInfo; empty where gRPC itself says it
    retry_seconds: float | None = None
    fields: tuple[str, ...] = ()  # that a request must change
    message: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether the server refuses it for want of room, and says when to try again."""
        return (self.code, self.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED") and self.retry_seconds is not None


def outcome(error: grpc.RpcError) -> Outcome:
    """What an error says."""
    status = rpc_status.from_call(error)
    details: list[any_pb2.Any] = [*status.details] if status else []
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    reasons = [info.reason for detail in details if detail.Unpack(info)]
    delays = [retry.retry_delay.ToNanoseconds() / 1e9 for detail in details if detail.Unpack(retry)]
    fields = [violation.field for detail in details if detail.Unpack(bad) for violation in bad.field_violations]
    return Outcome(
        error.code().name, *(reasons or [""]), delays[0] if delays else None, tuple(fields), error.details() or ""
    )


def answer(call: Callable[..., pb.ClassifyResponse], known: Known, *numbers: int, seconds: float = SECONDS) -> Outcome:
    """What becomes of a call of Classify for images of those numbers."""
    try:
        reply = call(known.request(*numbers), timeout=seconds)
    except grpc.RpcError as error:
        return outcome(error)
    return Outcome("OK" if known.is_right(reply, *numbers) else "wrong")


def memory_mib(server: support.ServerProcess, line: str) -> float:
    """`VmRSS`, what a process takes, or `VmHWM`, the most that it has taken."""
    path = Path(f"/proc/{server.process.pid}/status")
    if not path.is_file():
        pytest.skip("needs /proc")
    return int(path.read_text("ascii").partition(f"{line}:")[2].split()[0]) / 1024


@contextmanager
def growth_below(server: support.ServerProcess, limit_mib: float) -> Iterator[None]:
    """The process never takes so much more than at the beginning."""
    before = memory_mib(server, "VmRSS")
    try:
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", "ascii")  # VmHWM begins again
    except OSError:
        pytest.skip("needs a kernel that can reset VmHWM")
    yield
    growth_mib = memory_mib(server, "VmHWM") - before
    assert growth_mib < limit_mib, f"grew by {growth_mib:.0f} MiB, and may by {limit_mib:.0f}"


class StallingProxy:
    """Passes bytes on to a server, of each connection no more than a number until it is released.

    Attributes:
        stalled: connections that have sent so much.
    """

    def __init__(self, address: str, stall_bytes: int) -> None:
        host, _, port = address.rpartition(":")
        self._target, self._stall_bytes = (host, int(port)), stall_bytes
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.stalled, self._released = 0, threading.Event()
        self._lock, self._sockets = threading.Lock(), [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._pass_on, args=(client, server, self._stall_bytes), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, None), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, left_bytes: int | None) -> None:
        with suppress(OSError):
            while content := source.recv(2**16 if left_bytes is None else min(left_bytes, 2**16)):
                target.sendall(content)
                if left_bytes is not None:
                    left_bytes -= len(content)
                    if not left_bytes:
                        with self._lock:
                            self.stalled += 1
                        self._released.wait()
                        left_bytes = None
            target.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """Pass on what waits, and all that comes."""
        self._released.set()

    def close(self) -> None:
        """End all connections."""
        self._released.set()
        for ended in self._sockets:
            with suppress(OSError):
                ended.shutdown(socket.SHUT_RDWR)
            ended.close()


@contextmanager
def stalling_proxy(server: support.ServerProcess, stall_bytes: int) -> Iterator[StallingProxy]:
    """A proxy in front of a server, closed at the end."""
    proxy = StallingProxy(server.address, stall_bytes)
    try:
        yield proxy
    finally:
        proxy.close()
