"""From the images of a request to what the engine gives for them: resolve the model, decode, run in batches.

What the services share; they make replies of it (`replies`).

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from headwise.v1 import service_pb2 as pb
from numpy.typing import NDArray

from headwise_server.batching import Answer, Batcher
from headwise_server.engines import Session
from headwise_server.errors import InvalidArgument, NotReady
from headwise_server.images import to_array
from headwise_server.in_flight import InFlight
from headwise_server.model_statistics import Statistics
from headwise_server.repository import Model, Models, resolve

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class State:
    """What the handlers share: the models once they are loaded, the batcher, and the calls in flight."""

    batcher: Batcher
    decoders: Executor
    models: Models = field(default_factory=dict)
    in_flight: InFlight = field(default_factory=InFlight)
    statistics: Statistics = field(default_factory=Statistics)

    def model(self, name: str, version: str) -> Model:
        """The model that a request names.

        Raises:
            NotReady: no model is loaded yet.
            NotFound: it is not served.
        """
        if not self.models:
            raise NotReady("the models are still loading; wait until the health service says SERVING.")
        return resolve(self.models, name, version)


def deadline_of(context: Context) -> float | None:
    """When the answer to a call is of no more use, on `time.monotonic`'s clock; None: it waits for ever."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


async def decoded(state: State, messages: Sequence[pb.Image], model: Model) -> NDArray[np.uint8]:
    """The images of a request (N, Y, X, C)."""
    if not messages:
        raise InvalidArgument("images", "expected at least one image, found none.")
    if len(messages) > (limit := state.batcher.max_queue):
        raise InvalidArgument("images", f"expected at most {limit} images, found {len(messages)}; send several calls.")
    loop = asyncio.get_running_loop()
    decoded = [
        loop.run_in_executor(state.decoders, to_array, message, model.manifest.input, f"images[{position}]")
        for position, message in enumerate(messages)
    ]
    return np.stack(await asyncio.gather(*decoded))


async def infer(state: State, session: Session, images_NYXC: NDArray[np.uint8], deadline: float | None) -> Answer:
    """Outputs for all images of a request, in pieces of a batch at most; if one piece fails, the rest are not run."""
    size = state.batcher.max_batch
    pieces = [images_NYXC[first : first + size] for first in range(0, len(images_NYXC), size)]
    tasks = [asyncio.ensure_future(state.batcher.run(session, piece, deadline)) for piece in pieces]
    try:
        answers = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    outputs = {name: np.concatenate([answer.outputs[name] for answer in answers]) for name in answers[0].outputs}
    queue = max(answer.queue_seconds for answer in answers)
    return Answer(outputs, queue, max(answer.inference_seconds for answer in answers))
