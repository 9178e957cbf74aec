"""From the images of a request to what the engine gives for them: resolve the model, decode, run in batches.

What the services share; they make replies of it (`replies`).

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import numpy as np
from headwise.graphs import Arrays
from headwise.v1 import service_pb2 as pb
from headwise.v1.bundle_pb2 import ImageInput
from numpy.typing import NDArray

from headwise_server.batching import Answer, Batcher
from headwise_server.decoders import Decoders
from headwise_server.errors import InvalidArgument, NotReady, TooLarge
from headwise_server.identity import Identity, anyone
from headwise_server.images import decoded, decoding_bytes, view
from headwise_server.in_flight import InFlight
from headwise_server.memory import Memory
from headwise_server.model_statistics import Statistics
from headwise_server.models import Model, Models, resolve
from headwise_server.peers import Peers
from headwise_server.rate_limits import RateLimits
from headwise_server.telemetry import Telemetry
from headwise_server.timing import TimedSession

Context = grpc.aio.ServicerContext[Any, Any]
STILL_LOADING = "the models are still loading; wait until the health service says SERVING."
NOTHING_SERVED = (
    "this server serves no model now: each was unloaded or removed, or cannot be served, as the repository's index and "
    "the server's log say. Send the request to another server, or have a model loaded here."
)


@dataclass
class State:
    """What the handlers share: the models once they are loaded, the batcher, and the calls in flight."""

    batcher: Batcher
    decoders: Decoders
    memory: Memory
    max_reply_bytes: int = 4 * 2**20
    models: Models = field(default_factory=dict)
    is_loading: bool = True  # until the repository has been looked at for the first time
    in_flight: InFlight = field(default_factory=InFlight)
    statistics: Statistics = field(default_factory=Statistics)
    telemetry: Telemetry = field(default_factory=Telemetry)
    identity: Callable[[], Identity] = anyone  # whose call is being answered
    rates: RateLimits = field(default_factory=RateLimits)
    peers: Peers = field(default_factory=Peers)

    @property
    def visible(self) -> Models:
        """The models that the caller may use."""
        identity = self.identity()
        return {name: versions for name, versions in self.models.items() if identity.permits(name)}

    def caller(self, context: Context) -> "Caller":
        """Whoever makes a call."""
        remaining = context.time_remaining()
        return Caller(self.identity().client, None if remaining is None else time.monotonic() + remaining)

    def model(self, name: str, version: str) -> Model:
        """The model that a request names.

        Raises:
            NotReady: no model is loaded yet, or none any more.
            NotAllowed: the caller may not use it, whether or not it is served.
            NotFound: it is not served.
        """
        if not self.models:
            raise NotReady(STILL_LOADING if self.is_loading else NOTHING_SERVED)
        if name:
            self.identity().require_model(name)
        return resolve(self.visible, name, version)


@dataclass(frozen=True)
class Caller:
    """Whose request it is, and what they want of it."""

    client: str  # clients take turns
    deadline: float | None  # when the answer is of no more use, on `time.monotonic`'s clock; None: they wait for ever
    waits_for_room: bool = False  # in a full queue, rather than being refused


def check_reply(state: State, size_bytes: int) -> None:
    """Refuse a request whose reply its client might not take, before anything is done for it.

    Args:
        size_bytes: of the reply, at most.

    Raises:
        TooLarge: it is larger than replies may be.
    """
    if size_bytes > state.max_reply_bytes:
        raise TooLarge(
            "images",
            f"expected a request whose reply takes at most {state.max_reply_bytes / 2**20:.1f} MiB, found one of up to "
            f"{size_bytes / 2**20:.1f} MiB. Send fewer images in a call, or start the server with --max-reply-mib.",
        )


@dataclass(frozen=True)
class Work:
    """A graph that is run on every image of a request."""

    session: TimedSession
    others: Arrays = field(default_factory=dict)  # that it takes, of each inference of each image, image by image
    inferences: int = 1  # of each image


async def run(
    state: State, model: Model, works: Sequence[Work], messages: Sequence[pb.Image], caller: Caller
) -> list[Answer]:
    """What each graph gives for the images of a request, which are decoded once; one graph after the other.

    Raises:
        ServiceError: as `errors` lists them.
    """
    if not messages:
        raise InvalidArgument("images", "expected at least one image, found none.")
    most, limit = len(messages) * max(work.inferences for work in works), state.batcher.max_queue
    if most > limit:
        in_all = f", {most} inferences in all" if most > len(messages) else ""
        raise TooLarge("images", f"expected at most {limit} images, found {len(messages)}{in_all}; send several calls.")
    if not caller.waits_for_room:
        state.batcher.check_room(caller.client, most)
    inferences = len(messages) * sum(work.inferences for work in works)
    await state.rates.take_images(state.identity(), inferences, waits=caller.waits_for_room)
    expected = model.manifest.input
    shape = (len(messages), expected.height, expected.width, expected.channels)
    copies = sum(work.inferences for work in works if work.inferences > 1)
    with state.memory.hold(caller.client, math.prod(shape) * (1 + copies)):
        images_NYXC = np.empty(shape, np.uint8)
        files = {}
        for position, message in enumerate(messages):
            if message.WhichOneof("content") == "encoded":
                files[position] = message.encoded
            else:
                images_NYXC[position] = view(message, expected, f"images[{position}]")
        if files:
            await _decode(state, files, expected, images_NYXC, caller)
        return [await _run(state, work, images_NYXC, caller) for work in works]


async def _run(state: State, work: Work, images_NYXC: NDArray[np.uint8], caller: Caller) -> Answer:
    repeated = np.repeat(images_NYXC, work.inferences, 0) if work.inferences > 1 else images_NYXC
    return await state.batcher.run(
        work.session,
        repeated,
        caller.deadline,
        client=caller.client,
        waits_for_room=caller.waits_for_room,
        others=work.others,
    )


async def _decode(
    state: State,
    files: Mapping[int, bytes],
    expected: ImageInput,
    images_NYXC: NDArray[np.uint8],
    caller: Caller,
) -> None:
    """Decode files into their places; nothing is decoded where one is refused by its header."""
    state.decoders.check_room(caller.client, len(files))  # others may still come first while the headers are read

    def size_bytes(position: int) -> int:
        limit_bytes = state.decoders.memory_bytes
        return decoding_bytes(files[position], expected, f"images[{position}].encoded", limit_bytes)

    def decode(position: int) -> None:
        images_NYXC[position] = decoded(files[position], expected, f"images[{position}].encoded")

    # A header that is meant to cost something costs half a second.
    sizes_bytes = await asyncio.to_thread(lambda: [size_bytes(position) for position in files])
    jobs = [(partial(decode, position), size) for position, size in zip(files, sizes_bytes, strict=True)]
    await state.decoders.run(caller.client, jobs, caller.deadline)
