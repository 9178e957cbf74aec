"""Engines behind one small interface: a session runs one graph of a bundle on uint8 images and what else it takes.

An engine that was asked for by name runs or the server does not start: nothing falls back in silence. `auto` takes the
first that is installed of OpenVINO and ONNX Runtime, both on the CPU; a GPU is used when it is asked for.

May import `headwise.bundle` and `headwise.graphs`, and nothing else of `headwise_server`. Only the modules beside this
one import a runtime.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from headwise.graphs import INPUTS
from numpy.typing import NDArray

# Both runtimes report their use to their makers by default; this server talks to its clients only.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: it cannot be imported

Precision = Literal["f32", "bf16", "f16", "int8"]  # int8: of a graph that was made for it
Outputs = dict[str, NDArray[Any]]


class EngineError(Exception):
    """An engine cannot run here, or does not run what it was asked to."""


class Session(Protocol):
    """One graph, ready to run; safe to call from several threads at once."""

    precision: Precision

    def run(self, images_NYXC: NDArray[np.uint8], **others: NDArray[Any]) -> Outputs:
        """Every output of the graph, by name.

        Args:
            others: its other inputs by name, as `headwise.graphs` lists them; the first dimension is the images'.
        """
        ...


@dataclass(frozen=True)
class Engine:
    """How to open sessions on one runtime and device."""

    name: str
    # Graph, which is deleted once the session is open; precision; concurrent runs to plan for; where to keep what is
    # built for this very bundle on this machine, if anything.
    open_session: Callable[[Path, Precision, int, Path], Session]
    reduced_precision: Callable[[], Precision | None]  # one that is faster here than f32, if any


def takes_images_alone(path: Path) -> bool:
    """Whether a graph of a bundle has no other input than images."""
    return len(INPUTS.get(path.name, ("images",))) == 1  # a variant takes what classify.onnx does


def require_integers(path: Path, elsewise: Sequence[str], operations: int) -> None:
    """Check that a session that is called int8 computes in integers; nothing else is served under that name.

    Args:
        elsewise: convolutions and products with weights that run in another type.
        operations: of those kinds, in all.

    Raises:
        EngineError: some run in another type, or there are none.
    """
    if elsewise or not operations:
        first = f"; first of them {elsewise[0]}" if elsewise else ""
        raise EngineError(
            f"expected {path} to run in int8, found {len(elsewise)} of {operations} convolutions and products with "
            f"weights in another type{first}"
        )


MODULES = {
    "openvino": ("openvino", "headwise[cpu]"),
    "onnxruntime": ("onnxruntime", "headwise[cpu]"),
    "cuda": ("onnxruntime", "headwise[gpu]"),
    "tensorrt": ("onnxruntime", "headwise[gpu,tensorrt]"),
}
AUTO = "auto"
AUTO_ORDER = ("openvino", "onnxruntime")


def is_installed(name: str) -> bool:
    """Whether the engine's runtime can be imported."""
    return importlib.util.find_spec(MODULES[name][0]) is not None


def create(name: str) -> Engine:
    """The engine of that name, or for `auto` the first CPU engine that is installed.

    Raises:
        EngineError: no such engine, or its runtime is not installed, or its device is not there.
    """
    if name == AUTO:
        installed = next((candidate for candidate in AUTO_ORDER if is_installed(candidate)), None)
        if installed is None:
            raise EngineError("no CPU runtime is installed. Install one: pip install 'headwise[cpu]'")
        name = installed
    if name not in MODULES:
        raise EngineError(f"unknown engine {name!r}; expected one of: {', '.join((AUTO, *MODULES))}")
    package, extra = MODULES[name]
    if not is_installed(name):
        raise EngineError(f"engine {name} needs the package {package}, which is not installed: pip install '{extra}'")
    try:
        module = importlib.import_module(f"headwise_server.engines.{name}")
    except ImportError as error:  # of its libraries
        raise EngineError(
            f"engine {name} needs the package {package}, which is here but cannot be loaded: {error}. "
            f"Install it again: pip install --force-reinstall '{extra}'"
        ) from error
    engine: Engine = module.engine()
    return engine
