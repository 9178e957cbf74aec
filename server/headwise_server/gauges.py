"""What the metrics say of the server's state whenever somebody asks: queues, memory, models and their estimates."""

from collections.abc import Callable, Iterable

from headwise_server.inference import State
from headwise_server.repository import VersionState
from headwise_server.telemetry import Readings, Telemetry

MODEL = ("model", "version")


def _estimates(state: State) -> Readings:
    for name, versions in state.models.items():
        for version, model in versions.items():
            for graph, session in (("classify", model.classify), ("explain", model.explain)):
                yield (name, str(version), graph), session.expected_seconds(state.batcher.max_batch)


def observe(telemetry: Telemetry, state: State, index: Callable[[], Iterable[VersionState]]) -> None:
    """Have the telemetry of a server read its state.

    Args:
        index: the state of every version of a model.
    """
    batcher, decoders, memory = state.batcher, state.decoders, state.memory
    telemetry.read("headwise_calls_in_flight", "Calls that are not answered yet.", lambda: state.in_flight.calls)
    telemetry.read("headwise_queue_images", "Images that wait for the engine.", lambda: batcher.waiting_images)
    telemetry.read("headwise_queue_limit_images", "Images that may wait.", lambda: batcher.max_queue)
    telemetry.read(
        "headwise_queue_seconds", "Time that the queue is expected to take.", lambda: batcher.waiting_seconds
    )
    telemetry.read(
        "headwise_longest_batch_seconds",
        "For how long the batch runs that has run the longest.",
        lambda: batcher.longest_running_seconds,
    )
    telemetry.read("headwise_decode_queue_images", "Images that wait to be decoded.", lambda: decoders.waiting_images)
    telemetry.read("headwise_memory_used_bytes", "Memory of requests and replies in hand.", lambda: memory.used_bytes)
    telemetry.read("headwise_memory_limit_bytes", "Limit of that memory.", lambda: memory.limit_bytes)
    telemetry.read(
        "headwise_expected_seconds",
        "Time that a batch of --max-batch images is expected to take.",
        lambda: _estimates(state),
        (*MODEL, "graph"),
    )
    telemetry.read(
        "headwise_model_state",
        "1 for the state that a version of a model is in.",
        lambda: (((known.name, str(known.version), known.state), 1) for known in index()),
        (*MODEL, "state"),
    )
