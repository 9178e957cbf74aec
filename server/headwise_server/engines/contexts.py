"""Graphs that TensorRT has compiled, kept under a key of everything that makes one unfit elsewhere.

ONNX Runtime writes such a graph as an "EP context": an ONNX file whose nodes hold the compiled engine. Opening it takes
a moment where compiling takes minutes. Its key is a hash of the bundle's sha256, graph, precision and profile, of the
versions of TensorRT and ONNX Runtime, and of the names and the driver of this machine's GPUs. What of that cannot be
known, is not guessed: nothing is kept then. A file that does not open is deleted, and the graph compiled again.

A context is written under a temporary name and renamed. It is as trustworthy as its folder: whoever may write there can
put another model in its place. The golden set is run on whatever is opened (`loading`).

Never run on a GPU so far.
"""

import csv
import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

import onnxruntime

from headwise_server.engines import EngineError, Session

logger = logging.getLogger(__name__)
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
QUERY_SECONDS = 30
TENSORRT_PACKAGES = ("tensorrt-cu13", "tensorrt-cu12", "tensorrt")
OpenSession = Callable[[Path, Mapping[str, str]], Session]  # a graph, with further entries of its options


@dataclass(frozen=True)
class Target:
    """What a compiled graph is fit for, beside the graph."""

    gpus: tuple[str, ...]  # names, all of the machine's: which of them is used may depend on the others
    visible: str  # CUDA_VISIBLE_DEVICES
    driver: str
    tensorrt: str
    onnxruntime: str


def _ask_gpus() -> str:
    return subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=QUERY_SECONDS).stdout


def _tensorrt_version() -> str | None:
    installed = {distribution.name: distribution.version for distribution in distributions()}
    return next((installed[name] for name in TENSORRT_PACKAGES if name in installed), None)


def target(
    ask_gpus: Callable[[], str] = _ask_gpus, tensorrt_version: Callable[[], str | None] = _tensorrt_version
) -> Target | None:
    """That of this machine; None, with a line in the log, where something of it is not known."""
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(ask_gpus().splitlines())]
        names, drivers = zip(*rows, strict=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.warning("compiled graphs are not kept: %s does not say which GPU this is: %s", QUERY[0], error)
        return None
    tensorrt = tensorrt_version()
    if tensorrt is None:
        logger.warning("compiled graphs are not kept: none of %s is installed", ", ".join(TENSORRT_PACKAGES))
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return Target(names, visible, "/".join(sorted(set(drivers))), tensorrt, onnxruntime.__version__)


def key(fit_for: Target, graph: Sequence[str], precision: str, profile: Mapping[str, str]) -> str:
    """A name for the compiled graph.

    Args:
        graph: what identifies it: sha256 of its bundle, and its path there.
        profile: shapes that it is compiled for.
    """
    identity = [asdict(fit_for), list(graph), precision, dict(profile)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def open_kept(graph: Path, kept: Path | None, open_session: OpenSession) -> Session:
    """A session of the compiled graph that was kept, or of the graph, which is compiled and then kept.

    Args:
        kept: file of the compiled graph; None where none may be kept.

    Raises:
        EngineError: the graph does not open.
    """
    if kept is None:
        return open_session(graph, {})
    if kept.is_file():
        try:
            return open_session(kept, {})
        except EngineError as error:
            logger.warning("%s is compiled again: what was kept of it does not open: %s", graph.name, error)
            kept.unlink(missing_ok=True)
    partial = kept.with_name(f".{kept.stem}.{os.getpid()}.partial.onnx")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("compiled graphs are not kept: no folder %s: %s", kept.parent, error.strerror)
        return open_session(graph, {})
    entries = {"ep.context_enable": "1", "ep.context_file_path": str(partial), "ep.context_embed_mode": "1"}
    try:
        session = open_session(graph, entries)
        if partial.is_file():
            partial.replace(kept)
        return session
    finally:
        partial.unlink(missing_ok=True)
