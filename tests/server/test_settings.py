"""The declaration of the settings, and the sources that they come from."""

import sys
from pathlib import Path
from typing import Any

import pytest
from headwise_server.receiving import COPIES
from headwise_server.settings import (
    HANDED_OVER,
    KINDS,
    PARTS_MIB,
    Settings,
    SettingsError,
    Source,
    kind,
    nearest,
    option,
    read_file,
    resolve,
    values,
    variable,
)
from hypothesis import given
from hypothesis import strategies as st

NAMES = sorted(Settings.model_fields)
LAYERS = (Source.OPTION, Source.ENVIRONMENT, Source.FILE)


@given(st.sets(st.sampled_from(LAYERS)))
def test_the_first_source_that_has_a_setting_counts(sources: set[Source]) -> None:
    """Options, then the environment, then the file, then the default."""
    layers: list[dict[str, Any]] = [
        {"max_batch": 10 + row} if layer in sources else {} for row, layer in enumerate(LAYERS)
    ]
    sourced = resolve({"repository": "m"} | layers[0], layers[1], layers[2], Path("f"))
    first = next((row for row, layer in enumerate(LAYERS) if layer in sources), None)
    assert sourced.settings.max_batch == (8 if first is None else 10 + first)
    assert sourced.sources["max_batch"] == (Source.DEFAULT if first is None else LAYERS[first])


@pytest.mark.parametrize(
    ("place", "layers"),
    [
        ("--max-batch", ({"max_batch": "x"}, {}, {})),
        ("HEADWISE_MAX_BATCH", ({}, {"max_batch": "x"}, {})),
        ("max_batch in f.toml", ({}, {}, {"max_batch": "x"})),
    ],
)
def test_errors_name_the_place(place: str, layers: tuple[dict[str, Any], ...]) -> None:
    """Where the wrong value stands, what was expected and what was found."""
    with pytest.raises(SettingsError) as caught:
        resolve(layers[0] | {"repository": "m"}, layers[1], layers[2], Path("f.toml"))
    assert str(caught.value) == f"{place}: expected a whole number, found 'x'."


@given(st.sampled_from(NAMES), st.sampled_from(["x", "-1", "nan", "inf", "1e400", "", "\0", "[]", "1.5"]))
def test_no_value_is_an_unforeseen_error(name: str, value: str) -> None:
    """Whatever is given for whatever setting is taken, or a SettingsError that says what was expected."""
    try:
        resolve({"repository": "m", name: value}, {}, {}, None)
    except SettingsError as error:
        message = str(error)
    else:
        return
    assert message.startswith(option(name)) or name in message  # or they do not go together
    assert "expected " in message
    assert "Input should" not in message


@given(st.integers(1, 1024), st.integers(1, 4096))
def test_memory_holds_a_message(message_mib: int, memory_mib: int) -> None:
    """Settings with which the largest message could never be answered are refused, and no others."""
    options = {"repository": "m", "max_message_mib": message_mib, "memory_mib": memory_mib}
    least_mib = (COPIES + HANDED_OVER + 1) * message_mib + PARTS_MIB
    if memory_mib >= least_mib:
        resolve(options, {}, {}, None)
    else:
        with pytest.raises(SettingsError, match=f"{least_mib} or more; found {memory_mib}"):
            resolve(options, {}, {}, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone shares ports between processes")
@given(st.integers(1, 64), st.integers(1, 4096), st.integers(2, 16), st.integers(1, 64))
def test_workers_share_what_is_stated_in_all(message_mib: int, memory_mib: int, workers: int, streams: int) -> None:
    """None gets more than its part, but for what each must have one of; what one cannot run with, many cannot share."""
    options = {"repository": "m", "max_message_mib": message_mib, "memory_mib": memory_mib, "streams": streams}
    try:
        whole = resolve({**options, "workers": workers}, {}, {}, None).settings
    except SettingsError:
        with pytest.raises(SettingsError):
            resolve({**options, "memory_mib": max(1, memory_mib // workers)}, {}, {}, None)
        return
    share = whole.share
    assert share.workers == 1
    assert resolve(share.model_dump(), {}, {}, None).settings == share
    for name in ("streams", "max_calls", "memory_mib", "decoding_mib"):
        assert getattr(share, name) == max(1, getattr(whole, name) // workers)


@pytest.mark.parametrize("listen", ["unix:/tmp/headwise.sock"])
def test_workers_need_a_port(listen: str) -> None:
    """A socket in the file system cannot be shared."""
    with pytest.raises(SettingsError, match=f"expected host:port to listen on with several workers, found {listen}"):
        resolve({"repository": "m", "workers": 2, "listen": listen}, {}, {}, None)


def test_page_needs_the_port_of_http() -> None:
    """There is nowhere else to serve it."""
    with pytest.raises(SettingsError, match="expected http_listen with ui, found none"):
        resolve({"repository": "models", "ui": True}, {}, {}, None)
    assert resolve({"repository": "models", "ui": True, "http_listen": "127.0.0.1:0"}, {}, {}, None).settings.ui


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"max_btach = 3", "there is no setting 'max_btach'; did you mean max_batch?"),
        (b"max-batch = 3", "did you mean max_batch?"),
        (b"[headwise]", "there is no setting 'headwise'"),
        (b"max_batch", "expected a TOML file"),
        (b"\xff", "expected a TOML file in UTF-8"),
        (b"a = " + b"[" * 10_000, "expected a TOML file"),
        (b"#" * (2**20 + 1), "expected at most 1048576 bytes"),
    ],
)
def test_files_with_other_things_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    """Unknown keys with the nearest name, and what is no TOML or too large."""
    path = tmp_path / "f.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_every_setting_is_described() -> None:
    """With a meaning that is a sentence, a type that tables can name, and a unit where it is a number with one."""
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith(".")
        assert kind(field) in KINDS
        assert values(field)
        assert variable(name) == f"HEADWISE_{name.upper()}"
    assert values(Settings.model_fields["max_message_mib"]) == "whole number, MiB, at least 1, at most 1024"


def test_a_name_like_no_other_gets_them_all() -> None:
    """What may be written, where nothing is near."""
    assert "max_batch, max_calls" in nearest("zzz", Settings.model_fields)
