"""What is served: verified bundles with their sessions open, by name and version."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from headwise.v1.bundle_pb2 import Bundle
from headwise.v1.service_pb2 import ServedModel

from headwise_server.errors import NotFound, NotInBundle
from headwise_server.timing import TimedSession

SHOWN_CHARACTERS = 64  # of a name or version that a message repeats


@dataclass(frozen=True)
class Model:
    """A verified bundle with its sessions open."""

    manifest: Bundle
    sha256: str  # of the manifest
    engine: str
    classify: TimedSession
    explain: TimedSession
    further: Mapping[str, TimedSession | str] = field(default_factory=dict)  # by graph; or why it is not served
    head_samples: bytes = b""  # the picture that the manifest describes; none where the bundle has none

    @cached_property
    def label_bytes(self) -> list[int]:
        """Sizes of the labels in UTF-8, the largest first."""
        return sorted((len(label.encode()) for label in self.manifest.labels), reverse=True)

    @cached_property
    def _served(self) -> dict[str, ServedModel]:
        name, version = self.manifest.name, self.manifest.version
        return {
            precision: ServedModel(
                name=name, version=version, sha256=self.sha256, engine=self.engine, precision=precision
            )
            for precision in (self.classify.precision, self.explain.precision)
        }

    def graph(self, name: str) -> TimedSession:
        """The session of a graph that not every bundle has.

        Args:
            name: of its file.

        Raises:
            NotInBundle: this one has none, or it does not pass here.
        """
        session = self.further.get(name, "it was not loaded")
        if isinstance(session, str):
            what = f"{self.manifest.name} version {self.manifest.version}"
            raise NotInBundle(f"expected {what} with {name}, found it without: {session}.")
        return session

    def served(self, session: TimedSession) -> ServedModel:
        """How a reply that this session gave names the model; the same message every time."""
        return self._served[session.precision]


Models = Mapping[str, Mapping[int, Model]]  # by name and version


def resolve(models: Models, name: str, version: str) -> Model:
    """The model that a request names; an empty name where one alone is served, an empty version for the newest.

    Raises:
        NotFound: none of that name or version, or no name where several are served.
    """
    if not name and len(models) == 1:
        name = next(iter(models))
    if name not in models:
        asked, served = name[:SHOWN_CHARACTERS], ", ".join(sorted(models))
        named = f"model {asked!r}" if name else "no model name"
        raise NotFound(asked, f"expected one of the models served ({served}), found {named}.")
    versions = models[name]
    if not version:
        return versions[max(versions)]
    # Versions longer than the longest one served are none of them, and int() refuses thousands of digits.
    if version.isascii() and version.isdecimal() and len(version) <= 20 and (model := versions.get(int(version))):
        return model
    served = ", ".join(str(number) for number in sorted(versions))
    asked = version[:SHOWN_CHARACTERS]
    raise NotFound(f"{name}/{asked}", f"expected a version of {name} served ({served}), found {asked!r}.")
