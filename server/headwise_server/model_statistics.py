"""How many requests each model was asked to answer since the server started, how they ended, and what that took.

Whichever service and port they came by. Belongs to one event loop. Kept by the name and version of a model and by its
graph, so bounded by the models that were served.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from headwise_server.batching import Answer

Key = tuple[str, str, str]  # name, version and graph


@dataclass
class Duration:
    """A sum of times."""

    count: int = 0
    nanoseconds: int = 0

    def __add__(self, other: "Duration") -> "Duration":
        """Both."""
        return Duration(self.count + other.count, self.nanoseconds + other.nanoseconds)

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.nanoseconds += round(seconds * 1e9)


@dataclass
class ModelStatistics:
    """What one graph of a version was asked. Every request is a success or a failure; only successes have the rest."""

    success: Duration = field(default_factory=Duration)  # from arrival to answer
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)  # longest wait of an image of a request
    inference: Duration = field(default_factory=Duration)  # longest engine run with an image of a request
    images: int = 0
    last_success: float = 0.0  # seconds since 1970; 0 before the first

    def __add__(self, other: "ModelStatistics") -> "ModelStatistics":
        """What two processes were asked."""
        return ModelStatistics(
            self.success + other.success,
            self.fail + other.fail,
            self.queue + other.queue,
            self.inference + other.inference,
            self.images + other.images,
            max(self.last_success, other.last_success),
        )


@dataclass
class Measured:
    """What a request that is being answered says of itself."""

    images: int = 0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0

    def ran(self, images: int, answer: Answer) -> None:
        """Its images have been run."""
        self.images = images
        self.queue_seconds, self.inference_seconds = answer.queue_seconds, answer.inference_seconds


class Statistics:
    """The statistics of all models."""

    def __init__(self, models: dict[Key, ModelStatistics] | None = None) -> None:
        self._models = models or {}

    def of(self, name: str, version: str, graph: str) -> ModelStatistics:
        """Those of one graph, "classify" or "explain", of a version of a model; all zero where nobody has asked it."""
        return self._models.get((name, version, graph), ModelStatistics())

    @contextmanager
    def request(self, name: str, version: str, graph: str) -> Iterator[Measured]:
        """Measure a request: an exception makes it a failure, a cancellation too."""
        measured, began = Measured(), time.monotonic()
        model = self._models.setdefault((name, version, graph), ModelStatistics())
        try:
            yield measured
        except BaseException:
            model.fail.add(time.monotonic() - began)
            raise
        model.success.add(time.monotonic() - began)
        model.queue.add(measured.queue_seconds)
        model.inference.add(measured.inference_seconds)
        model.images += measured.images
        model.last_success = time.time()

    def text(self) -> str:
        """All of it, for another process."""
        return json.dumps([(*key, asdict(model)) for key, model in self._models.items()])

    def with_others(self, texts: Iterable[str]) -> "Statistics":
        """Those of this process and of others together."""
        whole = dict(self._models)
        for text in texts:
            for *key, values in json.loads(text):
                durations = {name: Duration(**value) for name, value in values.items() if isinstance(value, dict)}
                name, version, graph = key
                own = whole.get((name, version, graph), ModelStatistics())
                whole[name, version, graph] = own + ModelStatistics(**{**values, **durations})
        return Statistics(whole)
