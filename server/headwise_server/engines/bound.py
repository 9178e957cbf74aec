"""Runs whose images and answers have fixed places on the device: nothing is allocated, and a run can be replayed.

A batch is padded to the next of a few sizes, and one beyond the largest goes in several runs. Each size has places of
its own (ONNX Runtime's IO binding). Where that is asked for it is captured as a CUDA graph: what a run launches is
recorded once and replayed as one, so that a small model does not wait for its launches. A graph reads and writes the
very places that it was captured with; hence one run at a time.

Every size is run as the session is opened, which captures it and which no client waits for. What replays with other
images must answer as a session does that captures nothing (`open_captured`); else that one is served, and the log says
so.

Never run on a GPU so far. On the CPU, where nothing is captured, the rest is tested.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headwise_server.engines import EngineError, Outputs, Precision
from headwise_server.engines.onnxruntime import OnnxRuntimeSession, Provider

logger = logging.getLogger(__name__)
LARGEST = 64  # images of a run
TYPES = {"tensor(float)": np.float32}
GRAPH = "gpu_graph_id"  # of a run's options; 0 is reserved, -1 captures nothing
REPLAY_TOLERANCE = 1e-2  # of an output's range; what was not read again is off by far more


def sizes(largest: int) -> list[int]:
    """Of batches: powers of two, and the largest."""
    smaller = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*smaller, largest]


@dataclass(frozen=True)
class _Place:
    """Where batches of one size lie on the device."""

    host_NYXC: NDArray[np.uint8]
    images: onnxruntime.OrtValue
    outputs: dict[str, onnxruntime.OrtValue]
    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions

    def run(self, session: onnxruntime.InferenceSession, images_NYXC: NDArray[np.uint8]) -> Outputs:
        """Answers for no more images than there is room for."""
        count = len(images_NYXC)
        self.host_NYXC[:count] = images_NYXC
        self.images.update_inplace(self.host_NYXC)  # those of an earlier batch behind them do not matter
        session.run_with_iobinding(self.binding, self.options)
        self.binding.synchronize_outputs()
        return {name: np.array(value.numpy()[:count]) for name, value in self.outputs.items()}


def _place(session: onnxruntime.InferenceSession, size: int, device: str, graph: int | None) -> _Place:
    """Memory for batches of a size, bound to inputs and outputs.

    Args:
        graph: number of the CUDA graph that its first run captures; None for none.

    Raises:
        EngineError: an output's size or type cannot be known before a run.
    """
    binding, options = session.io_binding(), onnxruntime.RunOptions()
    if graph is not None:
        options.add_run_config_entry(GRAPH, str(graph))
    [taken] = session.get_inputs()
    host_NYXC = np.zeros((size, *taken.shape[1:]), np.uint8)
    images = onnxruntime.OrtValue.ortvalue_from_numpy(host_NYXC, device, 0)
    binding.bind_ortvalue_input(taken.name, images)
    outputs = {}
    for output in session.get_outputs():
        shape: Sequence[Any] = output.shape[1:]
        if output.type not in TYPES or not all(isinstance(side, int) for side in shape):
            raise EngineError(f"expected {output.name} in float32 of known size, found {output.type} {output.shape}")
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type((size, *shape), TYPES[output.type], device, 0)
        binding.bind_ortvalue_output(output.name, value)
        outputs[output.name] = value
    return _Place(host_NYXC, images, outputs, binding, options)


class BoundSession(OnnxRuntimeSession):
    """A session that copies images to fixed places and answers from there."""

    def __init__(
        self,
        path: Path,
        precision: Precision,
        *,
        providers: Sequence[Provider],
        options: onnxruntime.SessionOptions,
        device: str = "cuda",
        largest: int = LARGEST,
        captured: bool = False,
    ) -> None:
        """Open a graph and run every size once.

        Args:
            device: of the places, as ONNX Runtime calls it.
            captured: whether the provider was asked for CUDA graphs, so that each size becomes one.

        Raises:
            EngineError: the graph does not load, runs elsewhere, or a run fails.
        """
        super().__init__(path, precision, providers=providers, options=options)
        self._alone = Lock()
        self._places: list[_Place] = []
        try:
            for number, size in enumerate(sizes(largest), 1):
                place = _place(self._session, size, device, number if captured else None)
                place.run(self._session, place.host_NYXC)
                self._places.append(place)
        except EngineError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise EngineError(f"{path} does not run in batches of {size}: {error}") from error

    @property
    def sizes(self) -> list[int]:
        """Of the batches that have places."""
        return [len(place.host_NYXC) for place in self._places]

    def run(self, images_NYXC: NDArray[np.uint8], **others: NDArray[Any]) -> Outputs:
        """Every output of the graph, by name.

        Raises:
            EngineError: other inputs than images, which have no places.
        """
        if others:
            raise EngineError(f"expected images alone, which have places on the device, found {', '.join(others)} too")
        largest = self.sizes[-1]
        starts = range(0, max(1, len(images_NYXC)), largest)
        with self._alone:
            answers = [self._run(images_NYXC[start : start + largest]) for start in starts]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in self._names}

    def _run(self, images_NYXC: NDArray[np.uint8]) -> Outputs:
        place = next(place for place in self._places if len(place.host_NYXC) >= len(images_NYXC))
        return place.run(self._session, images_NYXC)


def _check_replays(session: BoundSession, other: BoundSession) -> None:
    """Compare the answers of two sessions in every size.

    Raises:
        EngineError: they differ.
    """
    generator = np.random.default_rng(0)
    for size, place in zip(session.sizes, session._places, strict=True):
        images_NYXC = generator.integers(0, 256, place.host_NYXC.shape, dtype=np.uint8)
        expected = other.run(images_NYXC)
        for name, value in session.run(images_NYXC).items():
            difference, limit = np.abs(value - expected[name]).max(), REPLAY_TOLERANCE * np.ptp(expected[name])
            if not difference <= limit:
                raise EngineError(
                    f"replayed in batches of {size}, {name} is off by {difference:.3g}; allowed is {limit:.3g}"
                )


def open_captured(path: Path, open_session: Callable[[bool], BoundSession]) -> BoundSession:
    """A session with CUDA graphs, or one without where they cannot be captured or do not replay rightly.

    Args:
        open_session: of the graph, with CUDA graphs or without.

    Raises:
        EngineError: it does not open without them either.
    """
    plain = open_session(False)
    try:
        captured = open_session(True)
        _check_replays(captured, plain)
    except EngineError as error:
        logger.warning("%s runs without CUDA graphs: %s", path.name, " ".join(str(error).split()))
        return plain
    return captured
