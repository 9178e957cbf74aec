"""What is served: verified bundles with their sessions open, by name and version."""

from collections.abc import Mapping
from dataclasses import dataclass

from headwise.v1.bundle_pb2 import Bundle
from headwise.v1.service_pb2 import ServedModel

from headwise_server.engines import Session
from headwise_server.errors import NotFound


@dataclass(frozen=True)
class Model:
    """A verified bundle with its sessions open."""

    manifest: Bundle
    sha256: str  # of the manifest
    engine: str
    classify: Session
    explain: Session

    def served(self, session: Session) -> ServedModel:
        """How a reply that this session gave names the model."""
        return ServedModel(
            name=self.manifest.name,
            version=self.manifest.version,
            sha256=self.sha256,
            engine=self.engine,
            precision=session.precision,
        )


Models = Mapping[str, Mapping[int, Model]]  # by name and version


def resolve(models: Models, name: str, version: str) -> Model:
    """The model that a request names; an empty name where one alone is served, an empty version for the newest.

    Raises:
        NotFound: none of that name or version, or no name where several are served.
    """
    if not name and len(models) == 1:
        name = next(iter(models))
    if name not in models:
        asked = f"model {name!r}" if name else "no model name"
        raise NotFound(name, f"expected one of the models served ({', '.join(sorted(models))}), found {asked}.")
    versions = models[name]
    if not version:
        return versions[max(versions)]
    # Versions longer than the longest one served are none of them, and int() refuses thousands of digits.
    if version.isdecimal() and len(version) <= 20 and (model := versions.get(int(version))):
        return model
    served = ", ".join(str(number) for number in sorted(versions))
    raise NotFound(f"{name}/{version}", f"expected a version of {name} served ({served}), found {version!r}.")
