"""Find the bundles of a repository and load them."""

import logging
from pathlib import Path

from headwise.bundle import MANIFEST

from headwise_server.loading import LoadSettings, load
from headwise_server.models import Model, Models

logger = logging.getLogger(__name__)


class RepositoryError(Exception):
    """A repository holds no bundle, or one that must not be served."""


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


def load_all(repository: Path, settings: LoadSettings) -> Models:
    """Every bundle of the repository.

    Raises:
        RepositoryError: there is none.
        BundleError, EngineError: one of them must not be served.
    """
    models: dict[str, dict[int, Model]] = {}
    for folder in find(repository):
        model = load(folder, settings)
        models.setdefault(model.manifest.name, {})[int(model.manifest.version)] = model
        logger.info("loaded %s version %s", model.manifest.name, model.manifest.version)
    return models
