"""Find bundles, verify them, and hold the models that are served.

A bundle is served only if its manifest is known, every file has the sha256 that the manifest states, and both graphs
give on this machine's engine what the golden set says. A reduced precision must in addition leave the first label of
every golden image as it is; if it does not pass, Classify runs in float32, and the log says why. Explain always runs in
float32: its completeness tolerance is beyond bf16.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headwise.bundle import (
    CLASSIFY_GRAPH,
    EXPLAIN_GRAPH,
    MANIFEST,
    BundleError,
    check_files,
    file_sha256,
    golden_differences,
    read_golden_set,
    read_manifest,
)
from headwise.v1.bundle_pb2 import Bundle
from headwise.v1.service_pb2 import ServedModel

from headwise_server.engines import Engine, EngineError, Outputs, Precision, Session
from headwise_server.errors import NotFound
from headwise_server.timing import TimedSession

logger = logging.getLogger(__name__)
AUTO = "auto"
FULL: Precision = "f32"
MOST_DIGITS = 18  # of a version
SHOWN_CHARACTERS = 64  # of a name or version that a message repeats


class RepositoryError(Exception):
    """A repository holds no bundle, or one that must not be served."""


@dataclass(frozen=True)
class Model:
    """A verified bundle with its sessions open."""

    manifest: Bundle
    sha256: str  # of the manifest
    engine: str
    classify: TimedSession
    explain: TimedSession

    def served(self, session: TimedSession) -> ServedModel:
        """How a reply that this session gave names the model."""
        return ServedModel(
            name=self.manifest.name,
            version=self.manifest.version,
            sha256=self.sha256,
            engine=self.engine,
            precision=session.precision,
        )


Models = Mapping[str, Mapping[int, Model]]  # by name and version


def find(repository: Path) -> list[Path]:
    """Folders `<name>/<version>` that hold a manifest; names that begin with a dot are unfinished and skipped.

    Raises:
        RepositoryError: no such folder, or no bundle in it.
    """
    if not repository.is_dir():
        raise RepositoryError(f"expected a model repository at {repository}, found no such folder.")
    manifests = sorted(repository.glob(f"*/*/{MANIFEST}"))
    folders = [path.parent for path in manifests if not path.parent.name.startswith(".")]
    if not folders:
        raise RepositoryError(
            f"{repository} holds no bundle: expected <name>/<version>/{MANIFEST} in it. "
            f"Make one with `exporter build --dataset digits --out {repository}`."
        )
    return folders


def _golden_failure(session: Session, manifest: Bundle, golden: Outputs) -> str | None:
    """How far the session is from the golden set; None where it passes."""
    outputs = session.run(golden["images"])
    full = session.precision == FULL
    tolerance = manifest.golden_tolerance if full else manifest.golden_tolerance_reduced
    differences = golden_differences(outputs, golden).values()
    if not all(difference <= tolerance for difference in differences):
        return f"golden set differs by {max(differences):.3g}, tolerance {tolerance:.3g}"
    changed = int((outputs["logits"].argmax(1) != golden["logits"].argmax(1)).sum())
    return f"{changed} golden images change their first label" if changed and not full else None


def _open_checked(
    graph: Path, engine: Engine, precision: Precision, streams: int, manifest: Bundle, golden: Outputs
) -> Session:
    session = engine.open_session(graph, precision, streams)
    if failure := _golden_failure(session, manifest, golden):
        raise EngineError(f"{graph} on {engine.name} in {precision}: {failure}")
    return session


def _open_classify(
    graph: Path, engine: Engine, precision: str, streams: int, manifest: Bundle, golden: Outputs
) -> Session:
    if precision == AUTO and (reduced := engine.reduced_precision()):
        try:
            return _open_checked(graph, engine, reduced, streams, manifest, golden)
        except EngineError as error:
            logger.warning("%s; Classify runs in f32", error)
    return _open_checked(graph, engine, FULL, streams, manifest, golden)


def load(folder: Path, engine: Engine, precision: str = AUTO, streams: int = 1) -> Model:
    """Verify a bundle and open its graphs.

    Args:
        precision: of Classify: `auto` or `f32`.
        streams: concurrent runs to plan for.

    Raises:
        BundleError: the bundle is damaged or of an unknown format.
        EngineError: the engine cannot run it, or runs it wrongly.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if (folder.parent.name, folder.name) != (manifest.name, manifest.version):
        raise BundleError(
            f"{folder} says that it is {manifest.name} version {manifest.version}; a bundle's folder is "
            f"<name>/<version>. Rename the folder."
        )
    if not manifest.version.isdecimal():
        raise BundleError(
            f"{folder}: expected a positive integer as version, found {manifest.version!r}. Export again."
        )
    golden = read_golden_set(folder)
    classify = _open_classify(folder / CLASSIFY_GRAPH, engine, precision, streams, manifest, golden)
    explain = _open_checked(folder / EXPLAIN_GRAPH, engine, FULL, streams, manifest, golden)
    return Model(manifest, file_sha256(folder / MANIFEST), engine.name, TimedSession(classify), TimedSession(explain))


def load_all(repository: Path, engine: Engine, precision: str = AUTO, streams: int = 1) -> Models:
    """Every bundle of the repository.

    Raises:
        RepositoryError: there is none.
        BundleError, EngineError: one of them must not be served.
    """
    models: dict[str, dict[int, Model]] = {}
    for folder in find(repository):
        model = load(folder, engine, precision, streams)
        models.setdefault(model.manifest.name, {})[int(model.manifest.version)] = model
        logger.info("loaded %s version %s", model.manifest.name, model.manifest.version)
    return models


def is_number(version: str) -> bool:
    """Whether a version is a number such as a folder may have."""
    return version.isascii() and version.isdecimal() and len(version) <= MOST_DIGITS


def resolve(models: Models, name: str, version: str) -> Model:
    """The model that a request names; an empty name where one alone is served, an empty version for the newest.

    Raises:
        NotFound: none of that name or version, or no name where several are served.
    """
    if not name and len(models) == 1:
        name = next(iter(models))
    if name not in models:
        asked = f"model {name[:SHOWN_CHARACTERS]!r}" if name else "no model name"
        raise NotFound(
            name[:SHOWN_CHARACTERS], f"expected one of the models served ({', '.join(sorted(models))}), found {asked}."
        )
    versions = models[name]
    found = versions.get(int(version)) if is_number(version) else versions[max(versions)] if not version else None
    if found is None:
        served = ", ".join(str(number) for number in sorted(versions))
        asked = version[:SHOWN_CHARACTERS]
        raise NotFound(f"{name}/{asked}", f"expected a version of {name} served ({served}), found {asked!r}.")
    return found
