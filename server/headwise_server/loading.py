"""From the folder of a bundle to a model that may be served.

A bundle is served only if its manifest is known and consistent, every file has the sha256 that the manifest states, and
both graphs give on this machine's engine what the golden set says. Classify runs in float32, in the engine's reduced
precision or by the bundle's int8 graph for the engine, whichever is the fastest here (`choosing`) of those that pass:
a reduced precision must leave the first label of every golden image as it is, int8 that of every image of which the
float32 model is sure. What does not pass is left out, and the log says why; a precision that was asked for is served or
the bundle is not. Explain is always in float32: its completeness tolerance is beyond bf16 and int8. The graphs of maps
and of silent heads are served where the bundle has them and they pass; where they do not the log says why, and so does
the refusal of each request that needs them.

The runtimes map weights from files, and answer wrongly or die when such a file is overwritten or cut off. So they get a
private copy, written from the very bytes that were hashed and deleted as soon as the sessions are open: after that
nobody can reach it, and the graphs of a bundle share its memory. The copy holds the files of the manifest alone; the
runtimes refuse references to weights outside the folder of the graph.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from headwise.bundle import (
    GOLDEN_SET,
    BundleContent,
    BundleError,
    accepted_variants,
    check_consistency,
    parse_golden_set,
    read_bundle,
)
from headwise.graphs import (
    CLASSIFY_GRAPH,
    EXPLAIN_GRAPH,
    INPUTS,
    MAPS_GRAPH,
    OUTPUTS,
    SILENCED_GRAPH,
    completeness_residuals,
    dtype_of,
    golden_differences,
    golden_shapes,
    graphs_of,
    map_residuals,
    variant_failure,
)
from headwise.v1.bundle_pb2 import Bundle, Variant
from numpy.typing import NDArray

from headwise_server.choosing import fastest, measure
from headwise_server.engines import Engine, EngineError, Outputs, Precision, Session
from headwise_server.models import Model
from headwise_server.timing import TimedSession

Residuals = dict[str, Callable[[Outputs], NDArray[np.float64]]]  # what misses what, and by how much
logger = logging.getLogger(__name__)
_copies: set[str] = set()  # folders
AUTO: Literal["auto"] = "auto"
FULL: Precision = "f32"
OPTIONAL_GRAPHS = (MAPS_GRAPH, SILENCED_GRAPH)
SPLIT_RESIDUALS: Residuals = {"the parts of the golden set miss its logits": completeness_residuals}
RESIDUALS: dict[str, Residuals] = {
    EXPLAIN_GRAPH: SPLIT_RESIDUALS,
    MAPS_GRAPH: SPLIT_RESIDUALS | {"the maps of the golden set miss their contributions": map_residuals},
}
NARROWER: tuple[Precision, ...] = ("f16", "int8")  # that a variant may be in


@dataclass(frozen=True)
class _Candidate:
    """A way to run one of the graphs of a bundle."""

    graph: str  # its file, of `headwise.graphs.INPUTS`
    precision: Precision
    variant: Variant | None = None  # of the graph, which is opened in its place

    @property
    def path(self) -> str:
        """Of the file that is opened, relative to the bundle."""
        return self.variant.path if self.variant else self.graph


@dataclass(frozen=True)
class LoadSettings:
    """How bundles are opened."""

    engine: Engine
    precision: Precision | Literal["auto"] = AUTO  # of Classify
    streams: int = 1  # concurrent runs to plan for
    max_batch: int = 1  # images


@dataclass(frozen=True)
class _Opening:
    """A verified bundle whose graphs are being opened."""

    folder: Path  # of the bundle
    copy: Path  # private, gone when the sessions are open
    manifest: Bundle
    sha256: str
    golden: Outputs
    head_samples: bytes  # the picture, if the bundle has one
    settings: LoadSettings

    @property
    def cache(self) -> Path:
        """Where an engine may keep what it builds for this very bundle and machine."""
        return self.folder / "engines" / self.sha256[:16]

    def failure(self, candidate: _Candidate, error: object) -> EngineError:
        """An error in one line that names the bundle."""
        reason = " ".join(str(error).replace(str(self.copy), str(self.folder)).split())
        place = self.folder / candidate.path
        return EngineError(f"{place} on {self.settings.engine.name} in {candidate.precision}: {reason}")


def _version(folder: Path, manifest: Bundle) -> str:
    if not (manifest.version.isascii() and manifest.version.isdecimal() and manifest.version.strip("0")):
        raise BundleError(
            f"{folder}: expected a positive integer as version, found {manifest.version!r}. Export again."
        )
    if (folder.parent.name, folder.name) != (manifest.name, manifest.version):
        raise BundleError(
            f"{folder} says that it is {manifest.name} version {manifest.version}; a bundle's folder is "
            f"<name>/<version>. Rename the folder."
        )
    return manifest.version


def _write_copy(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def _listed(copy: tempfile.TemporaryDirectory[str]) -> Iterator[str]:
    _copies.add(copy.name)
    try:
        with copy as name:
            yield name
    finally:
        _copies.discard(copy.name)


def remove_copies() -> None:
    """Delete the private copies of bundles that are being loaded, for a process that ends without waiting for that."""
    for name in tuple(_copies):
        shutil.rmtree(name, ignore_errors=True)


def _head_samples(content: BundleContent) -> bytes:
    path = content.manifest.head_samples.path
    if not path:
        return b""
    if path not in content.files:
        raise BundleError(f"expected the picture of the head_samples, {path}, among the manifest's files, found none.")
    return content.files[path]


@contextmanager
def _private_copy(folder: Path, settings: LoadSettings) -> Iterator[_Opening]:
    """A bundle that has been verified, in a folder of its own that goes again.

    Raises:
        BundleError: the bundle is damaged, inconsistent or of an unknown format, or there is no room for the copy.
    """
    content = read_bundle(folder)
    _version(folder, content.manifest)
    try:
        golden = parse_golden_set(content.files[GOLDEN_SET])
        check_consistency(content.manifest, golden)
        head_samples = _head_samples(content)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    try:
        temporary = tempfile.TemporaryDirectory(prefix="headwise-")
    except OSError as error:
        raise BundleError(f"{folder}: no folder for a private copy: {error}. Name one with TMPDIR.") from error
    with _listed(temporary) as name:
        try:
            _write_copy(content.files, Path(name))
        except OSError as error:
            raise BundleError(
                f"{folder}: no private copy could be written to {Path(name).parent}: {error.strerror}. "
                f"Make room there, or name another folder with TMPDIR."
            ) from error
        manifest, sha256 = content.manifest, content.sha256
        del content  # the runtimes hold the weights from here on
        yield _Opening(folder, Path(name), manifest, sha256, golden, head_samples, settings)


def _golden_failure(session: Session, candidate: _Candidate, manifest: Bundle, golden: Outputs) -> str | None:
    """How far the session is from the golden set; None where it passes."""
    graph = candidate.graph
    images_name, *others = INPUTS[graph]
    outputs = session.run(golden[images_name], **{name: golden[name] for name in others})
    if outputs.keys() != set(OUTPUTS[graph]):
        return f"expected the outputs {', '.join(sorted(OUTPUTS[graph]))}, found {', '.join(sorted(outputs))}"
    for name, value in outputs.items():
        if (value.shape, value.dtype) != (golden[name].shape, golden[name].dtype):
            return f"expected {name} as {golden[name].dtype} {golden[name].shape}, found {value.dtype} {value.shape}"
    if candidate.variant:
        return variant_failure(outputs["logits"], golden["logits"], candidate.variant.golden_tolerance)
    full = session.precision == FULL
    tolerance = manifest.golden_tolerance if full else manifest.golden_tolerance_reduced
    differences = golden_differences(outputs, golden).values()
    if not all(difference <= tolerance for difference in differences):
        return f"golden set differs by {max(differences):.3g}, tolerance {tolerance:.3g}"
    for described, residuals in RESIDUALS.get(graph, {}).items():
        residual, tolerance = residuals(outputs).max(), manifest.completeness_tolerance
        if not residual <= tolerance:
            return f"{described} by {residual:.3g}, tolerance {tolerance:.3g}"
    if "logits" not in outputs:
        return None
    changed = int((outputs["logits"].argmax(1) != golden["logits"].argmax(1)).sum())
    return f"{changed} golden images change their first label" if changed and not full else None


def _warm_up_failure(session: TimedSession, graph: str, manifest: Bundle, max_batch: int) -> str | None:
    """Run the smallest and the largest batch, so that no client pays for a first run; what is wrong with them."""
    images_name, *others = INPUTS[graph]
    for batch in sorted({1, max_batch}):
        shapes = golden_shapes(manifest, batch)
        zeros = {name: np.zeros(shapes[name], dtype_of(name)) for name in others}
        outputs = session.warm_up(shapes[images_name], **zeros)
        for name, value in outputs.items():
            if value.shape != shapes[name]:
                return f"expected {name} as {shapes[name]} for a batch of {batch}, found {value.shape}"
    return None


def _open_checked(opening: _Opening, candidate: _Candidate) -> TimedSession:
    settings, precision = opening.settings, candidate.precision
    try:
        opened = settings.engine.open_session(opening.copy / candidate.path, precision, settings.streams, opening.cache)
        if opened.precision != precision:
            raise EngineError(f"expected a session in {precision}, found one in {opened.precision}")
        session = TimedSession(opened, opening.manifest.name, Path(candidate.graph).stem)
        failure = _golden_failure(session, candidate, opening.manifest, opening.golden) or _warm_up_failure(
            session, candidate.graph, opening.manifest, settings.max_batch
        )
    except Exception as error:  # whatever a runtime raises; they have no base class in common
        raise opening.failure(candidate, error) from error
    if failure:
        raise opening.failure(candidate, failure)
    return session


def _narrower(opening: _Opening) -> list[_Candidate]:
    """The ways to run Classify that are less exact than float32, the more exact first."""
    engine, candidates = opening.settings.engine, list[_Candidate]()
    if reduced := engine.reduced_precision():
        candidates.append(_Candidate(CLASSIFY_GRAPH, reduced))
    for variant in accepted_variants(opening.manifest):
        if variant.engine == engine.name and variant.precision in NARROWER:
            candidates.append(_Candidate(CLASSIFY_GRAPH, variant.precision, variant))
    return candidates


def _asked_for(opening: _Opening, precision: Precision) -> _Candidate:
    """The way to run Classify in a precision.

    Raises:
        EngineError: the engine has no such precision here, or the bundle no accepted graph in it.
    """
    full = _Candidate(CLASSIFY_GRAPH, FULL)
    offered = {candidate.precision: candidate for candidate in (full, *_narrower(opening))}
    if precision in offered:
        return offered[precision]
    engine = opening.settings.engine.name
    reasons = [
        f" ({variant.reason})"
        for variant in opening.manifest.variants
        if (variant.engine, variant.precision) == (engine, precision)
    ]
    raise EngineError(
        f"{opening.folder} on {engine}: expected Classify in {precision}, which --precision asks for, found "
        f"{', '.join(offered)} alone{''.join(reasons)}. Ask for one of those, or for auto."
    )


def _open_classify(opening: _Opening) -> TimedSession:
    settings = opening.settings
    if settings.precision != AUTO:
        return _open_checked(opening, _asked_for(opening, settings.precision))
    sessions = [_open_checked(opening, _Candidate(CLASSIFY_GRAPH, FULL))]
    for candidate in _narrower(opening):
        try:
            sessions.append(_open_checked(opening, candidate))
        except EngineError as error:
            logger.warning("%s; Classify runs in another precision", error)
    return _fastest(opening, sessions)


def _fastest(opening: _Opening, sessions: Sequence[TimedSession]) -> TimedSession:
    """The one to serve, as measured here; the log says which and why.

    Args:
        sessions: that passed, the most exact first.
    """
    manifest, settings = opening.manifest, opening.settings
    what = f"{manifest.name} version {manifest.version} on {settings.engine.name}: Classify in"
    if len(sessions) == 1:
        logger.info("%s %s, which alone passes here", what, sessions[0].precision)
        return sessions[0]
    batches = sorted({1, settings.max_batch})
    measured = measure(sessions, [golden_shapes(manifest, batch)["images"] for batch in batches])
    chosen = fastest(measured).session
    times = ", ".join(candidate.describe() for candidate in measured)
    logger.info("%s %s; ms by batch of %s: %s", what, chosen.precision, " / ".join(map(str, batches)), times)
    return chosen


def _open_optional(opening: _Opening, graph: str) -> TimedSession | str:
    """A graph that not every bundle has; else why it is not served, which the log says as well if it does not pass."""
    if graph not in graphs_of(opening.manifest):
        return "its bundle was exported by an older release. Export the model again"
    try:
        return _open_checked(opening, _Candidate(graph, FULL))
    except EngineError as error:
        logger.warning("%s; requests that need it are refused", error)
        return f"it does not pass here: {error}"


def load(folder: Path, settings: LoadSettings) -> Model:
    """Verify a bundle, open its graphs and warm them up.

    Raises:
        BundleError: the bundle is damaged, inconsistent or of an unknown format.
        EngineError: the engine cannot run it, or runs it wrongly.
    """
    with _private_copy(folder, settings) as opening:
        classify = _open_classify(opening)
        explain = _open_checked(opening, _Candidate(EXPLAIN_GRAPH, FULL))
        further = {graph: _open_optional(opening, graph) for graph in OPTIONAL_GRAPHS}
        return Model(
            opening.manifest,
            opening.sha256,
            settings.engine.name,
            classify,
            explain,
            further,
            opening.head_samples,
        )
