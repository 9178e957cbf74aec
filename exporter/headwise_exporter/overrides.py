"""Change settings in nested dataclasses by name: `training.epochs=5`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from headwise_exporter.errors import ExporterError

Settings = TypeVar("Settings")  # a dataclass


class SettingError(ExporterError):
    """There is no such setting, or it cannot have that value."""


@dataclass(frozen=True)
class _Assignment:
    """One setting that is asked for, on its way down the dataclasses."""

    path: tuple[str, ...]  # names that are still ahead of it
    value: str
    text: str  # as it was given

    @property
    def name(self) -> str:
        return self.text.partition("=")[0]


def override(settings: Settings, assignments: Sequence[str]) -> Settings:
    """The dataclass with other settings, each `name=value`, the name with dots: `training.epochs=5`.

    What settings say of each other is checked once all have their values. Of two values for one name the later counts.

    Raises:
        SettingError: no such setting, or a value that it cannot have.
    """
    asked = []
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator:
            raise SettingError(f"expected NAME=VALUE, found {text!r}, as in training.epochs=5.")
        asked.append(_Assignment(tuple(name.split(".")), value, text))
    changed: Settings = _with_settings(settings, asked)
    return changed


def _with_settings(settings: Any, asked: Sequence[_Assignment]) -> Any:
    """The dataclass with all that is asked of it and of the dataclasses in it."""
    known = [entry.name for entry in fields(settings)]
    groups: dict[str, list[_Assignment]] = {}
    for assignment in asked:
        if assignment.path[0] not in known:
            raise SettingError(f"unknown setting {assignment.name}; expected one of: {', '.join(known)}.")
        groups.setdefault(assignment.path[0], []).append(assignment)
    changes = {name: _changed(settings, name, group) for name, group in groups.items()}
    try:
        return replace(settings, **changes)
    except ValueError as error:
        raise SettingError(f"{', '.join(assignment.text for assignment in asked)}: {error}.") from error


def _changed(settings: Any, name: str, group: Sequence[_Assignment]) -> Any:
    """One setting of a dataclass, or the dataclass that it is, after all that is asked of it."""
    value, kind = getattr(settings, name), get_type_hints(type(settings))[name]
    if is_dataclass(value):
        for whole in (assignment for assignment in group if len(assignment.path) == 1):
            inner = ", ".join(entry.name for entry in fields(value))
            raise SettingError(f"{whole.name} has settings of its own: {inner}.")
        return _with_settings(value, [replace(assignment, path=assignment.path[1:]) for assignment in group])
    for assignment in group:
        if len(assignment.path) > 1:
            raise SettingError(f"unknown setting {assignment.name}: {name} has no settings of its own.")
        try:
            value = _parsed(assignment.value, kind)
        except ValidationError as error:
            raise SettingError(f"{assignment.text}: {error.errors()[0]['msg']}.") from error
    return value


def _parsed(value: str, kind: Any) -> Any:
    """The value of that type: as a word or number, or as JSON (`[64,128]`, `null`)."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_json(value)
    except ValidationError:
        return adapter.validate_strings(value)
