"""The models of a repository: which versions are loaded, why others are not, and what changes.

A bundle that cannot be served stops no other: its state says why. A version is read, verified, opened, warmed up and
compared before the mapping of models is replaced as a whole; requests in flight finish on the sessions they began on. A
new version that fails leaves the old one in place.

Everything is done by one thread at a time, never on the event loop. Files that still change are no error: a bundle that
fails is tried again until its files have been the same for two polls.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from headwise.bundle import BundleError

from headwise_server.engines import EngineError
from headwise_server.errors import NotFound
from headwise_server.folders import GONE, Scan, Signature, pinned_version, scan, signature
from headwise_server.loading import LoadSettings, load
from headwise_server.models import Model, Models
from headwise_server.slowdown import check_slowdown

logger = logging.getLogger(__name__)
SHORTAGES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
REMEMBERED_LINES = 1000  # of the log, not to be repeated
Key = tuple[str, int]  # name and version


class RepositoryError(Exception):
    """A repository cannot be read, or a model of it cannot be served."""


class State(StrEnum):
    """Of one version, named as in the Open Inference Protocol's extension for repositories."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class VersionState:
    """What is known of one version of a model."""

    name: str
    version: int
    state: State
    reason: str = ""  # why it is not served, or not as it now lies in its folder


@dataclass(frozen=True)
class RepositorySettings:
    """Which versions are loaded, and when."""

    folder: Path
    strict: bool = False  # one bundle that cannot be served is an error at the start
    keep_versions: int = 0  # newest, of each model, that stay loaded; 0 for all
    reload_seconds: float = 0.0  # between two looks at the folder; 0 for none
    max_slowdown: float = 0.0  # of a new version, by the one it replaces; 0 for any


def scan_repository(folder: Path) -> Scan:
    """Every folder of a repository that claims to be a bundle.

    Raises:
        RepositoryError: no such folder, or it cannot be read.
    """
    try:
        return scan(folder)
    except FileNotFoundError:
        raise RepositoryError(f"expected a model repository at {folder}, found no such folder.") from None
    except OSError as error:
        raise RepositoryError(f"the model repository {folder} cannot be read: {error.strerror}.") from error


def nothing_in(folder: Path) -> str:
    """What to do about a repository without bundles."""
    return (
        f"{folder} holds no bundle: expected <name>/<version>/manifest.json in it. "
        f"Make one with `exporter build --dataset digits --out {folder}`."
    )


def _may_pass(error: Exception) -> bool:
    """Whether a bundle failed for want of something that the machine may have again at the next look."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in SHORTAGES


class Repository:
    """Models that come and go. Belongs to one event loop.

    Args:
        publish: called on the loop after the first look, and after every change of `models` or of the states.
    """

    def __init__(
        self, settings: RepositorySettings, loading: LoadSettings, publish: Callable[[], Awaitable[None]]
    ) -> None:
        self.models: Models = MappingProxyType({})
        self._settings, self._loading, self._publish = settings, loading, publish
        self._lock = asyncio.Lock()
        self._states: dict[Key, VersionState] = {}
        self._seen: dict[Key, Signature] = {}  # at the last look
        self._tried: dict[Key, Signature] = {}  # those whose outcome is final
        self._passing: set[Key] = set()  # but for these, which failed for a reason that may pass
        self._unloaded: set[str] = set()  # by hand
        self._said: set[str] = set()
        self._first = True

    def index(self) -> list[VersionState]:
        """The state of every version, by name and number."""
        return [state for _, state in sorted(self._states.copy().items())]

    @property
    def unloaded(self) -> list[str]:
        """Names of the models that were unloaded by request."""
        return sorted(self._unloaded)

    def hold_back(self, names: Iterable[str]) -> None:
        """Serve none of these models until `load`; to be called before `start`."""
        self._unloaded.update(names)

    async def start(self) -> None:
        """Load what is there.

        Raises:
            RepositoryError: no such folder; or no bundle can be served, and the folder is not looked at again.
            BundleError, EngineError: `strict`, and one cannot be served.
        """
        await self.look()
        if not (self.models or self._unloaded or self._settings.reload_seconds):
            raise RepositoryError(self._nothing_to_serve())

    async def look(self) -> None:
        """Load, replace and retire what has changed in the folder; files that differ from the last look are waited for.

        Raises:
            RepositoryError: the folder cannot be read; everything stays as it is.
        """
        async with self._lock:
            await self._update(None)

    async def watch(self) -> None:
        """Follow the changes of the folder for ever; return at once where that is switched off."""
        while self._settings.reload_seconds:
            await asyncio.sleep(self._settings.reload_seconds)
            try:
                await self.look()
            except RepositoryError as error:  # an unmounted folder, perhaps: what is loaded is served
                self._say(logging.ERROR, str(error))
            except Exception:
                logger.exception("unforeseen error while the repository was looked at; the next look is another try")

    async def load(self, name: str) -> None:
        """Load a model's versions now, those that failed or were unloaded included.

        Raises:
            NotFound: the repository has no such model.
            RepositoryError: a version cannot be served; the message says why. Others may have been loaded.
        """
        async with self._lock:
            self._unloaded.discard(name)
            await self._update(name)
        states = [state for state in self.index() if state.name == name]
        if not states:
            raise NotFound(name, f"expected a model of the repository, found no folder of the name {name!r}.")
        if reasons := [state.reason for state in states if self._is_failure(state)]:
            raise RepositoryError(" ".join(reasons))

    async def unload(self, name: str) -> None:
        """Serve no version of a model until `load`; requests in flight are answered.

        Raises:
            NotFound: the repository has no such model.
        """
        async with self._lock:
            if not any(known == name for known, _ in self._states):
                raise NotFound(name, f"expected a model of the repository, found no folder of the name {name!r}.")
            self._unloaded.add(name)
            await self._update(name)

    def _is_failure(self, state: VersionState) -> bool:
        return bool(state.reason) and (state.name, state.version) in self._tried

    def _nothing_to_serve(self) -> str:
        folder = self._settings.folder
        if not self._states:
            return nothing_in(folder)
        reasons = "\n".join(f"  {state.reason}" for state in self.index())
        return f"{folder} holds no bundle that can be served:\n{reasons}"

    def _say(self, level: int, line: str) -> None:
        """Log what would be the same at every look only once."""
        if line not in self._said:
            if len(self._said) >= REMEMBERED_LINES:
                self._said.clear()
            self._said.add(line)
            logger.log(level, "%s", line)

    async def _update(self, only: str | None) -> None:
        """Bring the models in line with the folder; where one is named, that one, and what fails is final."""
        was_first, before = self._first, (self.models, self._states.copy())
        self.models = await asyncio.to_thread(self._updated, only)
        if was_first or before != (self.models, self._states):
            await self._publish()

    def _updated(self, only: str | None) -> Models:
        """The models that are to be served from now on; runs in a thread."""
        folders = scan_repository(self._settings.folder)
        for line in folders.skipped:
            self._say(logging.INFO, f"skipped: {line}")
        versions = folders.versions
        models = {name: dict(loaded) for name, loaded in self.models.items()}
        for name in sorted({*versions, *models}):
            if only in (None, name):
                models[name] = self._updated_model(name, versions.get(name, {}), models.get(name, {}), only is not None)
        self._first = False
        for name, version in list(self._states):
            if version not in versions.get(name, {}) and version not in models.get(name, {}):
                for known in (self._states, self._seen, self._tried):
                    known.pop((name, version), None)
                self._passing.discard((name, version))
        return MappingProxyType({name: MappingProxyType(loaded) for name, loaded in models.items() if loaded})

    def _updated_model(
        self, name: str, folders: dict[int, Path], loaded: dict[int, Model], final: bool
    ) -> dict[int, Model]:
        models, known = dict(loaded), sorted({*folders, *loaded}, reverse=True)
        limit, reason, wanted = self._wanted(name, known)
        examined, kept = list[int](), list[int]()
        for version in wanted:
            if len(kept) == limit:
                break
            examined.append(version)
            if self._update_version((name, version), folders.get(version), models, final):
                kept.append(version)
        for version in known:  # nothing goes before what takes its place is there
            if version not in examined and (len(kept) == limit or version not in models):
                self._retire((name, version), models, reason)
        return models

    def _wanted(self, name: str, known: list[int]) -> tuple[int, str, list[int]]:
        """How many versions stay, why no others do, and which are to be tried, best first."""
        if name in self._unloaded:
            return 0, "unloaded by request", []
        try:
            pinned = pinned_version(self._settings.folder / name)
        except (OSError, ValueError) as error:
            self._say(logging.ERROR, f"{name} stays as it is: {error}")
            return 1, str(error), []
        if pinned is None:
            limit = self._settings.keep_versions or len(known)
            return limit, f"newer versions are served, of which {limit} are kept", known
        if pinned not in known:
            self._say(logging.ERROR, f"{name} stays as it is: version {pinned} is pinned, and there is no folder of it")
        return 1, f"version {pinned} is pinned", [pinned] if pinned in known else []

    def _retire(self, key: Key, models: dict[int, Model], reason: str) -> None:
        if models.pop(key[1], None):
            logger.info("retired %s version %s: %s", *key, reason)
        self._states[key] = VersionState(*key, State.UNAVAILABLE, reason)
        self._tried.pop(key, None)

    def _update_version(self, key: Key, folder: Path | None, models: dict[int, Model], final: bool) -> bool:
        """Load a version where its folder has changed, or drop it where that is gone; whether it is to be served."""
        now = signature(folder) if folder else GONE
        settled = final or not self._settings.reload_seconds or self._seen.get(key) == now
        self._seen[key] = now
        is_loaded = key[1] in models
        if folder is None:
            if settled:
                self._retire(key, models, "its folder is gone")
            return not settled
        if self._tried.get(key) == now and key not in self._passing and (is_loaded or not final):
            return is_loaded
        if settled or self._first:
            self._try_version(key, folder, models, settled)
        elif not is_loaded:
            self._states[key] = VersionState(*key, State.LOADING, "its files still change")
        return key[1] in models

    def _try_version(self, key: Key, folder: Path, models: dict[int, Model], settled: bool) -> None:
        is_loaded = key[1] in models
        if not is_loaded:
            self._states[key] = VersionState(*key, State.LOADING)
        started = time.monotonic()
        self._passing.discard(key)
        try:
            model = load(folder, self._loading)
            self._compare(model, key[1], models)
        except Exception as error:  # an unforeseen one must not stop the other models either
            self._fail(key, is_loaded, settled and signature(folder) == self._seen[key], error)
        else:
            models[key[1]] = model
            self._tried[key] = self._seen[key]
            self._states[key] = VersionState(*key, State.READY)
            logger.info("loaded %s version %s in %.1f s", *key, time.monotonic() - started)

    def _fail(self, key: Key, is_loaded: bool, settled: bool, error: Exception) -> None:
        if self._settings.strict and self._first:
            raise error
        reason = " ".join(str(error).split()) or type(error).__name__
        if not settled:
            self._states[key] = VersionState(*key, State.READY if is_loaded else State.LOADING, reason)
            logger.info("%s version %s is not whole yet, or still changes: %s", *key, reason)
            return
        self._tried[key] = self._seen[key]
        self._states[key] = VersionState(*key, State.READY if is_loaded else State.UNAVAILABLE, reason)
        goes_on = "; what was loaded before is served on" if is_loaded else ""
        if _may_pass(error):
            self._passing.add(key)
            self._say(logging.ERROR, f"cannot serve {key[0]} version {key[1]} for now: {reason}{goes_on}")
            return
        unforeseen = error if not isinstance(error, (BundleError, EngineError)) else None
        logger.error("cannot serve %s version %s: %s%s", *key, reason, goes_on, exc_info=unforeseen)

    def _compare(self, model: Model, version: int, models: dict[int, Model]) -> None:
        """Refuse a model that is much slower than the one whose requests it would get."""
        replaced = models.get(version) or (models[max(models)] if models and version > max(models) else None)
        if replaced and self._settings.max_slowdown:
            check_slowdown(model, replaced, self._loading.max_batch, self._settings.max_slowdown)
