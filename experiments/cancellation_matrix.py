"""Does a cancelled call take anything from its neighbours? Of any server that speaks the Open Inference Protocol.

Each case sends some calls at once, so that they wait and run together, and cancels one of them: every position, at
every moment. The moments are shares of the time that all take where none is cancelled: no server says when a call is
queued or runs. Neighbours are compared with what the server gave for the same tensors alone. A neighbour is hurt by
another answer, hung without any after `--hung-seconds`, and lost by an error.

    python experiments/cancellation_matrix.py --target localhost:50051 --model digits [--calls 8] [--rounds 10]
        [--record results/cancellation_matrix.json] [--json]
"""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer
from headwise_exporter.files import write_json
from headwise_exporter.machine import machine
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.open_inference.service_pb2_grpc import GRPCInferenceServiceStub
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

MOMENTS = {"before it is sent": 0.0, "queued": 0.2, "running": 0.6, "while the reply is sent": 0.95}
JITTER = 0.15  # of the time of all, either way, except before the sending
TYPES = {"UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
TOLERANCE = 1e-3  # of outputs in FP32, absolute and relative: other batch sizes round in another way
COUNTS = ("cases", "cancelled", "neighbours", "hurt", "hung", "lost")

Outputs = dict[str, bytes]


@dataclass(frozen=True)
class Settings:
    """What to send."""

    model: str
    calls: int  # at once
    rounds: int
    hung_seconds: float
    seed: int


def random_request(metadata: oip.ModelMetadataResponse, random: np.random.Generator) -> oip.ModelInferRequest:
    """Random values for every input, 1 for each dimension that is open."""
    request = oip.ModelInferRequest(model_name=metadata.name)
    for tensor in metadata.inputs:
        if tensor.datatype not in TYPES:
            raise typer.BadParameter(f"expected inputs of {', '.join(TYPES)}, found {tensor.datatype} in {tensor.name}")
        shape, kind = [max(1, size) for size in tensor.shape], TYPES[tensor.datatype]
        values = random.random(shape) if kind is np.float32 else random.integers(0, 128, shape)
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        request.raw_input_contents.append(values.astype(kind).tobytes())
    return request


def outputs_of(response: oip.ModelInferResponse) -> Outputs:
    """Raw contents, or the values of typed ones, by name and datatype."""
    raw = list(response.raw_output_contents)
    return {
        f"{tensor.name} {tensor.datatype}": raw[index] if raw else tensor.contents.SerializeToString()
        for index, tensor in enumerate(response.outputs)
    }


def are_equal(outputs: Outputs, expected: Outputs) -> bool:
    """All outputs: those in FP32 up to the tolerance, others exactly."""
    if outputs.keys() != expected.keys():
        return False
    for name, content in outputs.items():
        if not name.endswith("FP32") or len(content) % 4 or len(content) != len(expected[name]):
            same = content == expected[name]
        else:
            values, wanted = np.frombuffer(content, "<f4"), np.frombuffer(expected[name], "<f4")
            same = np.allclose(values, wanted, rtol=TOLERANCE, atol=TOLERANCE)
        if not same:
            return False
    return True


async def _neighbour(call: Any, expected: Outputs, hung_seconds: float) -> str:
    try:
        response = await asyncio.wait_for(asyncio.shield(call), hung_seconds)
    except TimeoutError:
        call.cancel()
        return "hung"
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        return "lost"
    return "fine" if are_equal(outputs_of(response), expected) else "hurt"


class Matrix:
    """Cases against one model of a server."""

    def __init__(self, channel: grpc.aio.Channel, settings: Settings) -> None:
        self.stub: Any = GRPCInferenceServiceStub(channel)
        self.settings, self._random = settings, np.random.default_rng(settings.seed)
        self.requests: list[oip.ModelInferRequest] = []
        self.expected: list[Outputs] = []
        self.seconds = 0.0

    async def prepare(self) -> None:
        """Learn what each request gives alone, and how long all take together."""
        metadata = await self.stub.ModelMetadata(oip.ModelMetadataRequest(name=self.settings.model))
        self.requests = [random_request(metadata, self._random) for _ in range(self.settings.calls)]
        self.expected = [outputs_of(await self.stub.ModelInfer(request)) for request in self.requests]
        times = []
        for _ in range(5):
            began = time.perf_counter()
            await asyncio.gather(*(self.stub.ModelInfer(request) for request in self.requests))
            times.append(time.perf_counter() - began)
        self.seconds = float(np.median(times))

    async def case(self, position: int, share: float) -> Counter[str]:
        """Cancel one call at a moment, and count what became of all."""
        calls = [self.stub.ModelInfer(request) for request in self.requests]
        if share:
            await asyncio.sleep(self.seconds * max(0.0, share + self._random.uniform(-JITTER, JITTER)))
        cancelled = calls[position].cancel()
        ended = await asyncio.gather(
            *(
                _neighbour(call, expected, self.settings.hung_seconds)
                for number, (call, expected) in enumerate(zip(calls, self.expected, strict=True))
                if number != position
            )
        )
        return Counter(ended) + Counter(cases=1, cancelled=int(cancelled), neighbours=len(ended))


async def measure(target: str, settings: Settings, progress: Progress) -> dict[str, Any]:
    """All cases, by moment."""
    counts: dict[str, Counter[str]] = {moment: Counter() for moment in MOMENTS}
    async with grpc.aio.insecure_channel(target) as channel:
        matrix = Matrix(channel, settings)
        await matrix.prepare()
        bar = progress.add_task("cases", total=settings.rounds * settings.calls * len(MOMENTS))
        for _ in range(settings.rounds):
            for moment, share in MOMENTS.items():
                for position in range(settings.calls):
                    counts[moment] += await matrix.case(position, share)
                    progress.advance(bar)
        server = await matrix.stub.ServerMetadata(oip.ServerMetadataRequest())
    return {
        "machine": machine(),
        "server": {"name": server.name, "version": server.version},
        "settings": vars(settings),
        "seconds_of_all_calls": matrix.seconds,
        "moments": {moment: {name: count[name] for name in COUNTS} for moment, count in counts.items()},
    }


def report(record: dict[str, Any]) -> Table:
    """A row for each moment."""
    table = Table(
        title=f"{record['server']['name']} {record['server']['version']}, {record['settings']['calls']} calls"
    )
    table.add_column("cancelled")
    for name in COUNTS:
        table.add_column(name, justify="right")
    for moment, counts in record["moments"].items():
        table.add_row(moment, *(f"{counts[name]:,}" for name in COUNTS))
    return table


def main(
    target: Annotated[str, typer.Option(help="Address and port of the server.")],
    model: Annotated[str, typer.Option(help="Name, as the server knows it.")],
    calls: Annotated[int, typer.Option(min=2, help="At once.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Of all positions and moments.")] = 10,
    hung_seconds: Annotated[float, typer.Option(min=0.1, help="After which a neighbour counts as hung.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Of the tensors and moments.")] = 0,
    record: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cancel, count, print and record. Exit status 1 where a neighbour was hurt, hung or lost."""
    settings = Settings(model, calls, rounds, hung_seconds, seed)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        result = asyncio.run(measure(target, settings, progress))
    if record:
        write_json(record, result)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        Console().print(report(result))
    if any(counts[name] for counts in result["moments"].values() for name in ("hurt", "hung", "lost")):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
