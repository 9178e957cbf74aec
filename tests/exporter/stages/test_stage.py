"""Stages that are skipped when nothing has changed."""

from pathlib import Path

import pytest
from headwise_exporter.stages.stage import Stage, carry_out, is_current

STAGE = Stage("copy", ("in.txt",), ("out.txt",))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in which the stage was carried out once, with `{"a": 1}`."""
    (tmp_path / "in.txt").write_text("x")
    assert carry_out(tmp_path, STAGE, {"a": 1}, lambda: copy(tmp_path))
    return tmp_path


def copy(run: Path) -> None:
    """What the stage does."""
    (run / "out.txt").write_text((run / "in.txt").read_text())


def fail() -> None:
    """A stage that must not run."""
    raise AssertionError("the stage ran")


def test_nothing_changed_nothing_done(run: Path) -> None:
    """The same settings, inputs and results: skipped. A tuple and a list are the same setting."""
    assert not carry_out(run, STAGE, {"a": 1}, fail)
    carry_out(run, STAGE, {"a": (1, 2)}, lambda: copy(run))
    assert not carry_out(run, STAGE, {"a": [1, 2]}, fail)


@pytest.mark.parametrize("change", ["setting", "input", "result altered", "result removed", "record damaged"])
def test_any_change_runs_it_again(run: Path, change: str) -> None:
    """Another setting, another input, a result altered or gone, a damaged record."""
    settings = {"a": 2 if change == "setting" else 1}
    if change == "input":
        (run / "in.txt").write_text("y")
    elif change == "result altered":
        (run / "out.txt").write_text("z")
    elif change == "result removed":
        (run / "out.txt").unlink()
    elif change == "record damaged":
        (run / "copy.stage.json").write_text("{")
    assert carry_out(run, STAGE, settings, lambda: copy(run))
    assert (run / "out.txt").read_text() == (run / "in.txt").read_text()


def test_interrupted_stage_is_not_current(run: Path) -> None:
    """A stage that stopped half-way runs again, though its old results and settings would fit."""

    def interrupt() -> None:
        (run / "out.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(run, STAGE, {"a": 3}, interrupt)
    assert not is_current(run, STAGE, {"a": 3})
    assert not is_current(run, STAGE, {"a": 1})
