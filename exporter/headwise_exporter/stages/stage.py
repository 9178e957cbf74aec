"""Stages that are skipped when their inputs have not changed.

A stage writes files into the run's folder and, when they all stand, `<stage>.stage.json`: its inputs (settings, and the
sha256 of the files it read) and the sha256 of what it wrote. If both still hold, the stage has nothing to do. So a
build that was interrupted goes on at the stage that was not finished, and a changed setting redoes that stage and
those after it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headwise.bundle import file_sha256

from headwise_exporter.files import write_json


@dataclass(frozen=True)
class Stage:
    """One step of a run: what it depends on and which files it makes, in the run's folder."""

    name: str
    reads: Sequence[str]
    writes: Sequence[str]


def _hashes(run: Path, names: Sequence[str]) -> dict[str, str | None]:
    return {name: file_sha256(run / name) if (run / name).is_file() else None for name in names}


def _record_path(run: Path, stage: Stage) -> Path:
    return run / f"{stage.name}.stage.json"


def is_current(run: Path, stage: Stage, settings: Mapping[str, Any]) -> bool:
    """Whether the stage was carried out with these settings and files, and its results still stand."""
    try:
        recorded = json.loads(_record_path(run, stage).read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # also of bytes that are no text
        return False
    return bool(recorded == _record(run, stage, settings)) and None not in recorded["writes"].values()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they are when JSON is read back: tuples become lists."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read


def _record(run: Path, stage: Stage, settings: Mapping[str, Any]) -> dict[str, Any]:
    return plain(
        {
            "headwise": version("headwise"),
            "settings": settings,
            "reads": _hashes(run, stage.reads),
            "writes": _hashes(run, stage.writes),
        }
    )


def write_stage_record(run: Path, stage: Stage, settings: Mapping[str, Any]) -> None:
    """Note that the stage was carried out with these settings and files."""
    write_json(_record_path(run, stage), _record(run, stage, settings))


def carry_out(run: Path, stage: Stage, settings: Mapping[str, Any], produce: Callable[[], None]) -> bool:
    """Run `produce` unless the stage is current; True when it ran."""
    if is_current(run, stage, settings):
        return False
    _record_path(run, stage).unlink(missing_ok=True)
    produce()
    write_stage_record(run, stage, settings)
    return True
