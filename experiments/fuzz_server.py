"""Whatever is sent to a server, does a good call stay right? Random requests against a Headwise server.

Callers send at random: random bytes, valid requests with bytes changed, cut or doubled, random images, all to a random
method; with random deadlines, cancellations, and in streams. Beside them one caller sends the same good request all
the time and compares the reply's logits with the first. Errors of the server's own (INTERNAL, UNKNOWN) are counted as
faults too. The memory of the server's process is sampled, and its growth is as `resident_memory` has it.

    python experiments/fuzz_server.py --target localhost:50051 --pid PID --minutes 10 [--callers 16] [--seed 0]
        [--record results/fuzz.json] [--json]
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer
from headwise.v1 import service_pb2 as pb
from headwise_exporter.files import write_json
from headwise_exporter.machine import machine
from headwise_server.open_inference import service_pb2 as oip
from resident_memory import growth, resident_mib
from rich.console import Console
from rich.progress import Progress

HEADWISE, OPEN_INFERENCE = "/headwise.v1.HeadwiseService/", "/inference.GRPCInferenceService/"
UNARY = [HEADWISE + name for name in ("Classify", "Explain", "GetModel", "ListModels")] + [
    OPEN_INFERENCE + name for name in ("ModelInfer", "ModelMetadata", "ModelReady", "RepositoryIndex")
]
STREAMS = [HEADWISE + "ClassifyStream", OPEN_INFERENCE + "ModelStreamInfer"]
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBPVP8 ", b"II*\0")
FAULTS = ("INTERNAL", "UNKNOWN")
OF_THE_CLIENT = "Internal error from Core"  # what grpc.aio says where its call ended while it was sending
LONGEST_SECONDS = 60.0  # of a good call
MAX_BYTES = 4000
SAMPLES = 600  # of the memory, in all


class Fuzzer:
    """Random calls, all of them from the seed."""

    def __init__(self, channels: list[grpc.aio.Channel], good: bytes, seed: int) -> None:
        self._channels, self._good, self._random = channels, good, random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def _image(self) -> bytes:
        return self._random.choice(SIGNATURES) + self._random.randbytes(self._random.randrange(MAX_BYTES))

    def _valid(self) -> bytes:
        image = pb.Image(encoded=self._image())
        infer = oip.ModelInferRequest(model_name="digits", raw_input_contents=[self._random.randbytes(64)])
        infer.inputs.add(name="images", datatype="UINT8", shape=[self._random.randint(-2, 3), 8, 8, 1])
        requests = (
            pb.ClassifyRequest(images=[image] * self._random.randint(0, 5), top_k=self._random.randint(0, 20)),
            pb.ExplainRequest(images=[image], labels=[str(self._random.randint(0, 12))] * self._random.randint(0, 5)),
            pb.ClassifyStreamRequest(request_id="1", request=pb.ClassifyRequest(images=[image])),
            infer,
        )
        return self._random.choice([*(request.SerializeToString() for request in requests), self._good])

    def _mutated(self, content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(self._random.randint(1, 8)):
            at = self._random.randrange(len(changed) + 1)
            match self._random.randrange(3):
                case 0:
                    changed[at : at + 1] = self._random.randbytes(1)
                case 1:
                    del changed[at : at + self._random.randint(1, 20)]
                case 2:
                    changed[at:at] = changed[at : at + self._random.randint(1, 20)]
        return bytes(changed)

    def content(self) -> bytes:
        """A request."""
        match self._random.randrange(3):
            case 0:
                return self._random.randbytes(self._random.randrange(MAX_BYTES))
            case 1:
                return self._valid()
            case _:
                return self._mutated(self._valid())

    async def _unary(self, channel: grpc.aio.Channel, seconds: float) -> None:
        method: Any = channel.unary_unary(self._random.choice(UNARY))
        call = method(self.content(), timeout=seconds)
        if self._random.random() < 0.2:
            asyncio.get_running_loop().call_later(self._random.uniform(0, 0.05), call.cancel)
        await self._count(call)

    async def _count(self, call: Any) -> None:
        code, details = (await call.code()).name, await call.details()
        self.outcomes[code] += 1
        if code in FAULTS and details != OF_THE_CLIENT:
            self.faults[f"{code}: {details}"] += 1

    async def _stream(self, channel: grpc.aio.Channel, seconds: float) -> None:
        async def requests() -> AsyncIterator[bytes]:
            for _ in range(self._random.randint(0, 10)):
                yield self.content()

        method: Any = channel.stream_stream(self._random.choice(STREAMS))
        call = method(requests(), timeout=seconds)
        if self._random.random() < 0.2:
            asyncio.get_running_loop().call_later(self._random.uniform(0, 0.05), call.cancel)
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            async for _ in call:
                pass
        await self._count(call)

    async def send(self) -> None:
        """One call, whose status is counted."""
        channel, seconds = self._random.choice(self._channels), self._random.choice([0.001, 0.02, 1.0, 30.0])
        await (self._stream if self._random.random() < 0.2 else self._unary)(channel, seconds)


async def _good_calls(channel: grpc.aio.Channel, good: bytes, end: float) -> Counter[str]:
    call: Any = channel.unary_unary(HEADWISE + "Classify", response_deserializer=pb.ClassifyResponse.FromString)
    counts: Counter[str] = Counter()
    first = np.frombuffer((await call(good, timeout=LONGEST_SECONDS)).classifications[0].logits, "<f4")
    while time.monotonic() < end:
        try:
            reply = await call(good, timeout=LONGEST_SECONDS)
        except grpc.aio.AioRpcError as error:
            counts[error.code().name] += 1
            continue
        logits = np.frombuffer(reply.classifications[0].logits, "<f4")
        counts["right" if np.allclose(logits, first, rtol=1e-4, atol=1e-4) else "wrong"] += 1
    return counts


async def measure(target: str, pid: int, minutes: float, callers: int, seed: int, progress: Progress) -> dict[str, Any]:
    """What became of all calls."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(5)]
    listing: Any = channels[0].unary_unary(HEADWISE + "GetModel", response_deserializer=pb.GetModelResponse.FromString)
    size = (await listing(b"")).manifest.input
    tensor = pb.ImageTensor(height=size.height, width=size.width, channels=size.channels)
    tensor.data = random.Random(seed).randbytes(size.height * size.width * size.channels)
    good = pb.ClassifyRequest(images=[pb.Image(tensor=tensor)]).SerializeToString()
    fuzzer, bar, began = Fuzzer(channels[1:], good, seed), progress.add_task("minutes", total=minutes), time.monotonic()
    end = began + 60 * minutes

    async def caller() -> None:
        while time.monotonic() < end:
            await fuzzer.send()
            progress.update(bar, completed=(time.monotonic() - began) / 60)

    samples_mib: list[float] = []

    async def sample() -> None:
        while time.monotonic() < end:
            samples_mib.append(resident_mib(pid))
            await asyncio.sleep(60 * minutes / SAMPLES)

    async with asyncio.TaskGroup() as group:
        group.create_task(sample())
        good_calls = group.create_task(_good_calls(channels[0], good, end))
        for _ in range(callers):
            group.create_task(caller())
    for channel in channels:
        await channel.close()
    return {
        "machine": machine(),
        "settings": {"minutes": minutes, "callers": callers, "seed": seed},
        "good_calls": dict(good_calls.result()),
        "calls": dict(fuzzer.outcomes),
        "faults": dict(fuzzer.faults),
        "resident_mib": {**growth(samples_mib), "samples": len(samples_mib)},
    }


def is_fine(record: dict[str, Any]) -> bool:
    """Whether all good calls were right, there were some, and no call met a fault of the server."""
    return list(record["good_calls"]) == ["right"] and not record["faults"]


def main(
    target: Annotated[str, typer.Option(help="Address and port of the server.")],
    pid: Annotated[int, typer.Option(help="Its process, on this machine.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Of sending.")] = 10.0,
    callers: Annotated[int, typer.Option(min=1, help="At the same time.")] = 16,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    record: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send, count, print and record. Exit status 1 where a good call was not right, or the server had a fault."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        result = asyncio.run(measure(target, pid, minutes, callers, seed, progress))
    if record:
        write_json(record, result)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        mib = result["resident_mib"]
        Console().print(f"good calls: {result['good_calls']}; others: {result['calls']}; faults: {result['faults']}")
        Console().print(f"{mib['second_tenth']:.1f} MiB after the first tenth, {mib['last_tenth']:.1f} at the end")
    if not is_fine(result):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
