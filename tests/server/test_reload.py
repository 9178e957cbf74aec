"""New, changed and removed bundles, one look at the repository at a time."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from headwise.bundle import read_manifest, write_manifest
from headwise_server.engines import Engine, Outputs, create
from headwise_server.errors import NotFound
from headwise_server.loading import LoadSettings
from headwise_server.repository import Repository, RepositoryError, RepositorySettings, State


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository to change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


class Published:
    """What was published: the versions of `digits` after each change."""

    def __init__(self, folder: Path, engine: Engine | None = None, **settings: Any) -> None:
        how = LoadSettings(engine or create("onnxruntime"), "f32", max_batch=4)
        options = {"reload_seconds": 1.0, **settings}
        self.repository = Repository(RepositorySettings(folder, **options), how, self.publish)
        self.versions: list[list[int]] = []

    async def publish(self) -> None:
        """As the server would."""
        self.versions.append(self.served())

    def served(self) -> list[int]:
        """Versions of `digits` that are served."""
        return sorted(self.repository.models.get("digits", {}))

    def state(self, version: int) -> tuple[State, str]:
        """State of a version of `digits`, and the reason."""
        [state] = [state for state in self.repository.index() if state.version == version]
        return state.state, state.reason

    async def look(self, times: int = 2) -> None:
        """Look at the repository; two times see that nothing changes any more."""
        for _ in range(times):
            await self.repository.look()


async def started(folder: Path, **settings: Any) -> Published:
    """A repository that has loaded what is there."""
    published = Published(folder, **settings)
    await published.repository.start()
    return published


def add(repository: Path, version: int, scale: float = 1.0) -> Path:
    """Another version of `digits`."""
    return support.copy_bundle(repository / "digits" / "1", repository, "digits", version, scale)


def logits_of(published: Published, version: int) -> np.ndarray:
    """What a served version gives for a fixed image."""
    return published.repository.models["digits"][version].classify.run(np.full((1, 8, 8, 1), 9, np.uint8))["logits"]


async def test_new_version_is_served_at_the_second_look(copy: Path) -> None:
    """At the first it may still be written. It is published together with what was there."""
    published = await started(copy)
    add(copy, 2, scale=1.1)
    await published.look(1)
    assert published.served() == [1]
    assert published.state(2) == (State.LOADING, "its files still change")
    await published.look(1)
    assert published.served() == [1, 2]
    assert published.state(2) == (State.READY, "")
    assert np.abs(logits_of(published, 1) - logits_of(published, 2)).max() > 1e-3


async def test_models_are_replaced_and_never_changed(copy: Path) -> None:
    """Who holds the mapping of before sees what was there before, and can change nothing."""
    published = await started(copy)
    before = published.repository.models
    add(copy, 2)
    await published.look()
    assert list(before["digits"]) == [1]
    with pytest.raises(TypeError):
        published.repository.models["digits"][3] = before["digits"][1]  # type: ignore[index]  # meant to fail


async def test_look_at_an_unchanged_repository_reads_and_publishes_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is served nor what has failed is tried again."""
    add(copy, 2)
    (copy / "digits" / "2" / "weights.bin").write_bytes(b"x")
    published = await started(copy)
    await published.look()
    assert published.state(2)[0] == State.UNAVAILABLE
    count = len(published.versions)
    monkeypatch.setattr("headwise_server.repository.load", None)
    await published.look(3)
    assert len(published.versions) == count


async def test_bundle_that_is_still_copied_is_no_error(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever order its files come in: once it is whole it is served, and the log has no error."""
    published = await started(copy)
    whole, target = add(copy, 2).rename(copy.parent / "2"), copy / "digits" / "2"
    target.mkdir()
    for path in sorted(whole.iterdir(), reverse=True):
        content = path.read_bytes()
        for end in (len(content) // 2, len(content)):
            (target / path.name).write_bytes(content[:end])
            await published.look(1)
            assert published.served() == [1]
    await published.look(1)
    assert published.served() == [1, 2]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_bundle_that_is_half_copied_at_the_start_is_waited_for(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that looks again starts without it, and without any; it says so only once nothing changes any more."""
    weights = copy / "digits" / "1" / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    published = await started(copy)
    assert published.served() == []
    assert published.state(1)[0] == State.LOADING
    weights.write_bytes(content)
    await published.look()
    assert published.served() == [1]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_new_version_that_cannot_be_served_leaves_the_old_one(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its state and one line of the log say why; when its files are mended, it is served."""
    published = await started(copy)
    weights = add(copy, 2) / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    await published.look(4)
    assert published.served() == [1]
    state, reason = published.state(2)
    assert state == State.UNAVAILABLE
    assert "weights.bin: expected" in reason
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"cannot serve digits version 2: {reason}"
    ]
    weights.write_bytes(content)
    await published.look()
    assert published.served() == [1, 2]


async def test_version_that_is_damaged_after_it_was_loaded_is_served_on(copy: Path) -> None:
    """From memory, and its state says that a restart would not find it; mended, all is well again."""
    published = await started(copy)
    before = logits_of(published, 1)
    weights = copy / "digits" / "1" / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(bytes(len(content)))
    await published.look()
    state, reason = published.state(1)
    assert state == State.READY
    assert "weights.bin: its sha256 is not the one" in reason
    np.testing.assert_array_equal(logits_of(published, 1), before)
    weights.write_bytes(content)
    await published.look()
    assert published.state(1) == (State.READY, "")


async def test_bundle_that_takes_the_place_of_another_of_its_version_is_loaded(copy: Path) -> None:
    """Exported again under the same number: at no look is the model gone."""
    published = await started(copy)
    before = logits_of(published, 1)
    replacement = add(copy, 2, scale=1.2).rename(copy.parent / "replacement")
    manifest = read_manifest(replacement)
    manifest.version = "1"
    write_manifest(manifest, replacement)
    shutil.rmtree(copy / "digits" / "1")
    await published.look(1)
    assert published.served() == [1]
    replacement.rename(copy / "digits" / "1")
    await published.look()
    assert published.served() == [1]
    assert all(versions == [1] for versions in published.versions)
    assert np.abs(logits_of(published, 1) - before).max() > 1e-3


async def test_removed_folder_is_the_roll_back(copy: Path) -> None:
    """The version before is the newest again, and the state of the other is gone with it."""
    published = await started(copy)
    folder = add(copy, 2)
    await published.look()
    shutil.rmtree(folder)
    await published.look()
    assert published.served() == [1]
    assert [state.version for state in published.repository.index()] == [1]


async def test_repository_that_cannot_be_seen_changes_nothing(copy: Path, tmp_path: Path) -> None:
    """As when a share is not mounted for a while."""
    published = await started(copy)
    shutil.move(copy, tmp_path / "elsewhere")
    for _ in range(3):
        with pytest.raises(RepositoryError, match="found no such folder"):
            await published.look(1)
    assert published.served() == [1]
    shutil.move(tmp_path / "elsewhere", copy)
    await published.look()
    assert published.served() == [1]


async def test_pinned_version_is_served_alone(copy: Path) -> None:
    """Newer ones are loaded when the pin is gone; a pin to a version that is not there changes nothing."""
    add(copy, 2)
    published = await started(copy)
    pin = copy / "digits" / "pinned_version"
    pin.write_text("1\n")
    await published.look()
    assert published.served() == [1]
    assert published.state(2) == (State.UNAVAILABLE, "version 1 is pinned")
    for impossible in ("7", "latest"):
        pin.write_text(impossible)
        await published.look()
        assert published.served() == [1]
    pin.unlink()
    await published.look()
    assert published.served() == [1, 2]


async def test_pin_to_a_version_that_cannot_be_served_takes_nothing_away(copy: Path) -> None:
    """The versions that are served stay until the pinned one is there."""
    (add(copy, 2) / "weights.bin").write_bytes(b"x")
    published = await started(copy)
    (copy / "digits" / "pinned_version").write_text("2")
    await published.look()
    assert published.served() == [1]
    assert "weights.bin" in published.state(2)[1]


async def test_newest_versions_are_kept(copy: Path) -> None:
    """So many that can be served; an older one goes only when a newer one is there."""
    add(copy, 2)
    published = await started(copy, keep_versions=2)
    assert published.served() == [1, 2]
    damaged = add(copy, 4) / "weights.bin"
    damaged.write_bytes(b"x")
    await published.look()
    assert published.served() == [1, 2]
    add(copy, 3)
    await published.look()
    assert published.served() == [2, 3]
    assert published.state(1) == (State.UNAVAILABLE, "newer versions are served, of which 2 are kept")
    shutil.rmtree(copy / "digits" / "3")
    await published.look()
    assert published.served() == [1, 2]


async def test_model_is_unloaded_and_loaded_by_request(copy: Path) -> None:
    """Until it is loaded again, no look loads it."""
    published = await started(copy)
    await published.repository.unload("digits")
    await published.look()
    assert published.served() == []
    assert published.state(1) == (State.UNAVAILABLE, "unloaded by request")
    await published.repository.load("digits")
    assert published.served() == [1]
    for call in (published.repository.load, published.repository.unload):
        with pytest.raises(NotFound, match="found no folder of the name 'flowers'"):
            await call("flowers")


async def test_load_by_request_waits_for_no_second_look_and_says_what_failed(copy: Path) -> None:
    """It loads new versions at once, tries those again that failed, and raises where one still fails."""
    published = await started(copy, reload_seconds=0.0)
    add(copy, 2)
    await published.repository.load("digits")
    assert published.served() == [1, 2]
    weights = add(copy, 3) / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(b"x")
    add(copy, 4)
    with pytest.raises(RepositoryError, match=r"digits/3 is damaged: weights\.bin"):
        await published.repository.load("digits")
    assert published.served() == [1, 2, 4]
    weights.write_bytes(content)
    await published.repository.load("digits")
    assert published.served() == [1, 2, 3, 4]


class Slow:
    """A session that takes its time."""

    def __init__(self, inner: Any, seconds: float) -> None:
        self.inner, self.seconds, self.precision = inner, seconds, inner.precision

    def run(self, images_NYXC: np.ndarray, **others: np.ndarray) -> Outputs:
        """The real outputs, late."""
        time.sleep(self.seconds)
        outputs: Outputs = self.inner.run(images_NYXC, **others)
        return outputs


async def test_much_slower_version_does_not_replace_another(copy: Path) -> None:
    """Against the version it would replace, on this machine, in the same batch; the first has none to compare with."""
    real = create("onnxruntime")
    seconds = 0.02

    def open_session(*arguments: Any) -> Slow:
        return Slow(real.open_session(*arguments), seconds)

    engine = Engine("slow", open_session, lambda: None)
    published = await started(copy, engine=engine, max_slowdown=4.0)
    seconds = 0.25
    add(copy, 2)
    await published.look()
    assert published.served() == [1]
    state, reason = published.state(2)
    assert state == State.UNAVAILABLE
    assert "expected a batch of 4 in classify to take at most 4 times the" in reason
    assert "of version 1, found " in reason
    seconds = 0.02
    add(copy, 3)
    await published.look()
    assert published.served() == [1, 3]
