"""What the server measures of itself, in Prometheus' form.

Counters and histograms are written where something happens. What can be read at any time (queues, memory, models) is
read when somebody asks for the metrics, by functions given to `read`. Each server has a registry of its own.

The values of labels are bounded: methods that the server has, models that it has served, codes, reasons and states
from fixed lists. Nothing that a request says becomes a label.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from headwise_server.tracing import Tracing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Readings = Iterable[tuple[Sequence[str], float]]  # values of the labels, and the number


class _Reader(Collector):
    def __init__(self, name: str, documentation: str, labels: Sequence[str], read: Callable[[], Readings]) -> None:
        self._name, self._documentation, self._labels, self._read = name, documentation, labels, read

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, number in self._read():
            family.add_metric(values, number)
        return [family]


class Telemetry:
    """The metrics of one server, and its traces. Counters and histograms may be written from any thread."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.tracing = tracing or Tracing()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "headwise_requests",
            "Calls that have ended, by gRPC status code, or HTTP status code where the service is http.",
            ["service", "method", "code"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "headwise_request_seconds",
            "Time of a call from its arrival until its reply is made.",
            ["service", "method"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter(
            "headwise_refusals",
            "Requests answered by an error, by the reason of its ErrorInfo; requests in streams included.",
            ["reason"],
            registry=self.registry,
        )
        self.refusal_seconds = Histogram(
            "headwise_refusal_seconds",
            "Time of a call from its arrival until it is answered by an error.",
            ["reason"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_images = Histogram(
            "headwise_batch_images", "Images in a batch.", buckets=IMAGES, registry=self.registry
        )
        self.decode_seconds = Histogram(
            "headwise_decode_seconds", "Time to decode an image.", buckets=SECONDS, registry=self.registry
        )
        self.inference_seconds = Histogram(
            "headwise_inference_seconds",
            "Time of a batch that the engine has answered.",
            ["model", "graph"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.failed_batches = Counter(
            "headwise_failed_batches", "Batches that the engine has failed.", ["model", "graph"], registry=self.registry
        )
        self.wasted_images = Counter(
            "headwise_wasted_images",
            "Images whose request was answered, cancelled or late already when the engine began with them.",
            registry=self.registry,
        )
        self.abandoned_images = Counter(
            "headwise_abandoned_images",
            "Images whose caller left while the engine ran them.",
            registry=self.registry,
        )

    def read(
        self, name: str, documentation: str, read: Callable[[], Readings | float], labels: Sequence[str] = ()
    ) -> None:
        """Add a gauge that is read whenever the metrics are asked for.

        Args:
            read: gives the number, or with labels pairs of their values and the number.
        """

        def readings() -> Readings:
            value = read()
            return [((), value)] if isinstance(value, int | float) else value

        self.registry.register(_Reader(name, documentation, labels, readings))

    def exposition(self) -> bytes:
        """All metrics as text; to be called where what `read` takes may be read."""
        return generate_latest(self.registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(expositions: Mapping[str, str]) -> bytes:
    """The metrics of several processes as one text, in which each number has the process in its label `worker`.

    Sums are Prometheus' to make: it knows that a counter which begins anew is that of another process.

    Args:
        expositions: by the name of the process.
    """
    families: dict[str, Metric] = {}
    for worker, text in expositions.items():
        for part in text_string_to_metric_families(text):
            whole = families.setdefault(part.name, Metric(part.name, part.documentation, part.type))
            whole.samples += [sample._replace(labels={"worker": worker, **sample.labels}) for sample in part.samples]
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)
