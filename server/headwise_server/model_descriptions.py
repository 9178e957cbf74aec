"""The models under the names of the Open Inference Protocol, and what clients are told of them.

Each model is two: NAME gives what Classify does, and NAME.explain every tensor of the exact split, by the names that
they have in explain.onnx.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass

from headwise_server.inference import State
from headwise_server.model_statistics import Duration, Statistics
from headwise_server.models import Model
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.replies import DEFAULT_CLASSIFY_TOP
from headwise_server.repository import State as RepositoryState
from headwise_server.repository import VersionState
from headwise_server.tensors import INPUT, Output
from headwise_server.timing import TimedSession

EXPLAIN_SUFFIX = ".explain"
TYPES = {"UINT8": oip.TYPE_UINT8, "FP32": oip.TYPE_FP32, "BYTES": oip.TYPE_STRING}


@dataclass(frozen=True)
class Served:
    """A model under one of its two names."""

    name: str
    model: Model
    explains: bool

    @property
    def session(self) -> TimedSession:
        """What runs it."""
        return self.model.explain if self.explains else self.model.classify

    @property
    def graph(self) -> str:
        """Which of the model's graphs that is."""
        return "explain" if self.explains else "classify"

    @property
    def outputs(self) -> dict[str, Output]:
        """What it gives, by name."""
        manifest = self.model.manifest
        labels, encoders = len(manifest.labels), manifest.architecture.pruned_encoders
        if not self.explains:
            each = Output("FP32", (labels,))
            named = Output("BYTES", (min(DEFAULT_CLASSIFY_TOP, labels),))
            return {"logits": each, "probabilities": each, "labels": named}
        heads = sum(encoder.heads for encoder in encoders)
        shapes: dict[str, tuple[int, ...]] = {
            "logits": (labels,),
            "heads": (heads, labels),
            "feed_forwards": (len(encoders), labels),
            "embedding": (labels,),
            "biases": (labels,),
            "head_fields": (heads, labels),
        }
        return {name: Output("FP32", shape) for name, shape in shapes.items()}


def served(state: State, name: str, version: str) -> Served:
    """The model that a request names; a model that is itself called NAME.explain goes first.

    Raises:
        NotReady: no model is loaded yet, or none any more.
        NotAllowed: the caller may not use it.
        NotFound: it is not served.
    """
    explains = name.endswith(EXPLAIN_SUFFIX) and name not in state.visible
    model = state.model(name.removesuffix(EXPLAIN_SUFFIX) if explains else name, version)
    return Served(model.manifest.name + EXPLAIN_SUFFIX * explains, model, explains)


def names_of(name: str, others: Container[str]) -> tuple[str, ...]:
    """Both names of a model, or its own where the second is the name of another."""
    return (name,) if name + EXPLAIN_SUFFIX in others else (name, name + EXPLAIN_SUFFIX)


def all_served(state: State) -> Iterator[Served]:
    """Every model that the caller may use, under both names, by name and version."""
    visible = state.visible
    for own_name, versions in sorted(visible.items()):
        for _, model in sorted(versions.items()):
            for name in names_of(own_name, visible):
                yield Served(name, model, name != own_name)


def metadata(state: State, asked: Served) -> oip.ModelMetadataResponse:
    """The model's tensors, with the axis of the images."""
    expected = asked.model.manifest.input
    response = oip.ModelMetadataResponse(
        name=asked.name,
        versions=[str(number) for number in sorted(state.models[asked.model.manifest.name])],
        platform=asked.model.engine,
    )
    response.inputs.add(name=INPUT, datatype="UINT8", shape=(-1, expected.height, expected.width, expected.channels))
    for name, output in asked.outputs.items():
        response.outputs.add(name=name, datatype=output.datatype, shape=(-1, *output.shape))
    return response


def config(state: State, asked: Served) -> oip.ModelConfig:
    """The same, as Triton's configuration has it."""
    expected = asked.model.manifest.input
    response = oip.ModelConfig(
        name=asked.name,
        platform=asked.model.engine,
        backend=asked.model.engine,
        max_batch_size=state.batcher.max_queue,
    )
    response.input.add(
        name=INPUT,
        data_type=oip.TYPE_UINT8,
        format=oip.ModelInput.FORMAT_NHWC,
        dims=(expected.height, expected.width, expected.channels),
    )
    for name, output in asked.outputs.items():
        response.output.add(name=name, data_type=TYPES[output.datatype], dims=output.shape)
    return response


def statistics(known: Statistics, asked: Served) -> oip.ModelStatistics:
    """What the model was asked so far, by both services."""
    measured = known.of(asked.model.manifest.name, asked.model.manifest.version, asked.graph)

    def duration(value: Duration) -> oip.StatisticDuration:
        return oip.StatisticDuration(count=value.count, ns=value.nanoseconds)

    return oip.ModelStatistics(
        name=asked.name,
        version=asked.model.manifest.version,
        last_inference=round(measured.last_success * 1e3),
        inference_count=measured.images,
        inference_stats=oip.InferStatistics(
            success=duration(measured.success),
            fail=duration(measured.fail),
            queue=duration(measured.queue),
            compute_infer=duration(measured.inference),
        ),
    )


def index(states: list[VersionState], ready_only: bool) -> oip.RepositoryIndexResponse:
    """The state of every version under both names, or of those that are served."""
    response, own_names = oip.RepositoryIndexResponse(), {state.name for state in states}
    for state in states:
        if state.state == RepositoryState.READY or not ready_only:
            for name in names_of(state.name, own_names):
                response.models.add(name=name, version=str(state.version), state=state.state, reason=state.reason)
    return response
