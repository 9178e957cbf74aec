"""How a server runs: each setting is declared here, once, with its type, bounds, default, unit and meaning.

The options of the command, the names in the environment, the keys of a file, what `--show-settings` prints and the
table of docs/serving.md are all made from this declaration. An option goes before the environment, that before the
file, and that before the default.
"""

import difflib
import json
import sys
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from headwise_server import addresses
from headwise_server.engines import AUTO, MODULES
from headwise_server.identity import Limits
from headwise_server.receiving import COPIES
from headwise_server.tls import TlsFiles

PREFIX = "HEADWISE_"
MAX_WORKERS = 1024
MAX_FILE_BYTES = 2**20
RECEIVING_SHARE = 0.25  # of the memory of requests, for messages on their way; more where it holds too few [our choice]
HANDED_OVER = 2  # copies more of a message while gRPC hands it over, which it does one after another
PARTS_MIB = 8  # of a message: the objects that its fields become, and the image made of it
EXPECTED = {  # by pydantic's name for what is wrong
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "path_type": "a path",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
}
KINDS = {int: "whole number", float: "number", str: "text", Path: "path", bool: "true or false"}


class SettingsError(ValueError):
    """Settings are wrong; the message says where, what was expected and what was found."""


class Source(StrEnum):
    """Where a value comes from; the first that has one."""

    OPTION = "option"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


def setting(meaning: str, default: Any = PydanticUndefined, unit: str = "", **bounds: Any) -> Any:
    """A setting; required where it has no default."""
    return Field(default, description=meaning, json_schema_extra={"unit": unit} if unit else None, **bounds)


class Settings(BaseModel):
    """How a server runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    repository: Path = setting("Folder of bundles, <name>/<version>/manifest.json.")
    listen: str = setting("host:port, [IPv6]:port or unix:/path; port 0 takes a free one.", "127.0.0.1:50051")
    http_listen: str | None = setting("host:port of HTTP and metrics; none unless given.", None)
    ui: bool = setting("Serve a page for people at /ui/ of HTTP.", False)
    engine: str = setting(f"One of: {', '.join((AUTO, *MODULES))}; never another in silence.", AUTO)
    precision: Literal["auto", "f32", "bf16", "f16", "int8"] = setting(
        "Of Classify: auto for the fastest that passes the golden set; another is served, or the bundle is not.", "auto"
    )
    streams: int = setting("Batches at a time; 0 for one for each core.", 0, "batches", ge=0)
    workers: int = setting(
        "That share the port, streams, calls and memory; more than one on Linux only.",
        1,
        "processes",
        ge=1,
        le=MAX_WORKERS,
    )
    max_batch: int = setting("Images in a batch.", 8, "images", ge=1)
    max_queue: int = setting("Images that may wait.", 1024, "images", ge=1)
    max_calls: int = setting("Calls in hand; more are refused.", 2048, "calls", ge=1)
    max_message_mib: int = setting("Largest message.", 32, "MiB", ge=1, le=1024)
    max_reply_mib: int = setting("Largest reply; stock clients take 4.", 4, "MiB", ge=1, le=1024)
    memory_mib: int = setting("Memory for requests and replies in hand.", 1024, "MiB", ge=1)
    decoding_mib: int = setting("Memory for images being decoded.", 1024, "MiB", ge=1)
    stuck_seconds: float = setting("Time a batch may run before health says NOT_SERVING.", 30.0, "s", ge=0)
    lame_duck_seconds: float = setting("Time to go on accepting calls when stopped.", 0.5, "s", ge=0)
    grace_seconds: float = setting("Time to finish calls when stopped.", 20.0, "s", ge=0)
    strict: bool = setting("Do not start if one bundle cannot be served.", False)
    reload_seconds: float = setting("Between two looks for new or changed bundles; 0 for none.", 0.0, "s", ge=0)
    keep_versions: int = setting("Newest versions of each model that stay loaded; 0 for all.", 0, "versions", ge=0)
    max_slowdown: float = setting(
        "Largest time of a new version, as a multiple of that of the version it replaces; 0 for any.", 4.0, ge=0
    )

    tls_certificate: Path | None = setting(
        "PEM file of the server's certificate and those between it and a root.", None
    )
    tls_key: Path | None = setting("PEM file of its private key.", None)
    tls_client_ca: Path | None = setting("PEM file of who signs clients: each must present a certificate.", None)

    tokens: Path | None = setting("TOML file of bearer tokens, of which each call must then have one.", None)
    allow_plaintext_tokens: bool = setting("Take tokens without TLS from other machines.", False)
    client_calls_per_second: float = setting("Of each client; 0 for any number.", 0.0, "calls/s", ge=0)
    client_images_per_second: float = setting("Of each client; 0 for any number.", 0.0, "images/s", ge=0)

    max_concurrent_streams: int = setting("Calls of one connection at a time; more wait there.", 1024, "calls", ge=1)
    max_connection_age_seconds: float = setting("Connections are closed after about this; 0 for never.", 0.0, "s", ge=0)
    max_connection_age_grace_seconds: float = setting("For their calls to end then.", 60.0, "s", ge=0)
    log_format: Literal["text", "json"] = setting("Of each line of the log.", "text")
    log_level: Literal["debug", "info", "warning", "error"] = setting("Of the server's own lines.", "info")
    access_log: bool = setting("A line for each request, which otherwise comes with the level debug.", False)

    repository_control: bool = setting("Let clients load and unload models of the repository.", False)
    channelz: bool = setting("Describe connections and their calls to clients.", False)

    @field_validator("http_listen")
    @classmethod
    def _is_host_and_port(cls, text: str | None) -> str | None:
        if text is not None and not isinstance(addresses.parse(text), addresses.TcpAddress):
            raise ValueError(f"expected host:port, found {text}: HTTP has no sockets in the file system here.")
        return text

    @field_validator("listen")
    @classmethod
    def _is_address(cls, text: str) -> str:
        addresses.parse(text)
        return text

    @model_validator(mode="after")
    def _page_has_a_port(self) -> Self:
        if self.ui and not self.http_listen:
            raise ValueError("expected http_listen with ui, found none: the page is served over HTTP.")
        return self

    @model_validator(mode="after")
    def _workers_can_share(self) -> Self:
        if self.workers == 1:
            return self
        if not sys.platform.startswith("linux"):
            raise ValueError(f"expected workers = 1, found {self.workers}: only Linux shares a port between processes.")
        if not isinstance(addresses.parse(self.listen), addresses.TcpAddress):
            raise ValueError(f"expected host:port to listen on with several workers, found {self.listen}.")
        return self

    @property
    def share(self) -> "Settings":
        """What each worker gets: a part of what is stated for the server as a whole."""
        names = ("streams", "max_calls", "memory_mib", "decoding_mib")
        parts = {name: max(1, getattr(self, name) // self.workers) for name in names}
        return self.model_copy(update={**parts, "workers": 1})

    @property
    def tls(self) -> TlsFiles | None:
        """The files of TLS, where it is on."""
        if not (self.tls_certificate and self.tls_key):
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        files = {name: getattr(self, name) for name in ("tls_certificate", "tls_key", "tls_client_ca")}
        if any(files.values()) and not self.tls:
            raise ValueError(
                "expected tls_certificate and tls_key together, and tls_client_ca with them only; found "
                f"{', '.join(name for name, path in files.items() if path)} alone."
            )
        return self

    @property
    def limits(self) -> Limits:
        """How fast each client may send."""
        return Limits(self.client_calls_per_second, self.client_images_per_second)

    @model_validator(mode="after")
    def _tokens_are_hidden(self) -> Self:
        listens = [text for text in (self.listen, self.http_listen) if text]
        is_open = not self.tls and [text for text in listens if not addresses.parse(text).is_local]
        if self.tokens and is_open and not self.allow_plaintext_tokens:
            raise ValueError(
                f"expected TLS, or an address of this machine, with tokens; found {is_open[0]} in plain text: anyone "
                "on the way could read them. Give tls_certificate and tls_key, or set allow_plaintext_tokens."
            )
        return self

    @model_validator(mode="after")
    def _messages_fit(self) -> Self:
        largest, kept = self.max_message_mib, (self.turns + HANDED_OVER) * self.max_message_mib
        least = kept + COPIES * largest + PARTS_MIB
        each = f" for each of {self.workers} workers" if self.workers > 1 else ""
        if self.memory_mib // self.workers < least:
            raise ValueError(
                f"expected memory_mib to hold at least one message of max_message_mib = {largest}, which is charged "
                f"{COPIES} times, {kept} MiB for those that are on their way, and {PARTS_MIB} MiB for its parts, so "
                f"{least} or more{each}; found {self.memory_mib}: none could be answered. Set a larger memory_mib, or "
                "a smaller max_message_mib."
            )
        return self

    @property
    def turns(self) -> int:
        """Messages that may be received at a time before they are counted, by each worker."""
        return max(1, int(RECEIVING_SHARE * self.memory_mib / self.workers) // self.max_message_mib - HANDED_OVER)

    @property
    def counted_bytes(self) -> int:
        """Memory for what a lone worker counts of requests and replies: all but what is kept for those on their way."""
        return (self.memory_mib - (self.turns + HANDED_OVER) * self.max_message_mib) * 2**20


def option(name: str) -> str:
    """How the command takes a setting."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """How the environment names a setting."""
    return PREFIX + name.upper()


def kind(field: FieldInfo) -> Any:
    """The type of a setting, without None."""
    if get_origin(field.annotation) in (Union, types.UnionType):
        return next(kind for kind in get_args(field.annotation) if kind is not type(None))
    return str if get_origin(field.annotation) is Literal else field.annotation


def values(field: FieldInfo) -> str:
    """What a setting may be: its type, bounds and unit."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(get_args(field.annotation))
    bounds = [
        f"{word} {getattr(limit, name):g}"
        for word, name in (("at least", "ge"), ("at most", "le"))
        for limit in field.metadata
        if hasattr(limit, name)
    ]
    extra = field.json_schema_extra
    unit = [str(extra["unit"])] if isinstance(extra, dict) else []
    return ", ".join([KINDS[kind(field)], *unit, *bounds])


def nearest(name: str, names: Mapping[str, object]) -> str:
    """What was probably meant, as the end of a message."""
    close = difflib.get_close_matches(name.replace("-", "_").lower(), names, 1)
    return f"; did you mean {close[0]}?" if close else f"; expected one of: {', '.join(sorted(names))}."


@dataclass(frozen=True)
class Sourced:
    """Settings, and where each comes from."""

    settings: Settings
    sources: Mapping[str, Source]

    def lines(self) -> list[str]:
        """The settings as a file that `--config` takes, with where each comes from as comments."""
        rows = []
        for name in Settings.model_fields:
            value = self.settings.model_dump(mode="json")[name]  # a SecretStr is masked
            row = f"# {name} is not set" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"
            rows.append((row, self.sources[name]))
        width = max(len(row) for row, _ in rows)
        return [f"{row:{width}}  # {source}" for row, source in rows]


def read_file(path: Path) -> dict[str, Any]:
    """The settings that a TOML file has, by name.

    Raises:
        SettingsError: it cannot be read, is no TOML, or has a key that is no setting.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise SettingsError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, found more.")
        table = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: expected a TOML file in UTF-8, found something else: {error}.") from None
    for name in table:
        if name not in Settings.model_fields:
            raise SettingsError(f"{path}: there is no setting {name!r}{nearest(name, Settings.model_fields)}")
    return table


def _message(error: ErrorDetails, places: Mapping[str, str]) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "missing":
        return f"expected {name}, found none: give {option(name)}, {variable(name)}, or {name} in the file of --config."
    context: Mapping[str, Any] = error.get("ctx", {})
    if error["type"] == "value_error":
        message = str(context["error"])
    else:
        expected = EXPECTED.get(error["type"], error["msg"]).format(**context)
        message = f"expected {expected}, found {error['input']!r}."
    return f"{places[name]}: {message}" if name else message


def resolve(
    options: Mapping[str, object], environment: Mapping[str, object], file: Mapping[str, object], path: Path | None
) -> Sourced:
    """Settings of all sources; of each the first that has it counts.

    Args:
        path: of the file, for messages.

    Raises:
        SettingsError: one is wrong or missing, or they do not go together.
    """
    given: dict[str, object] = {}
    sources: dict[str, Source] = {}
    places: dict[str, str] = {}
    for name in Settings.model_fields:
        layers = (
            (Source.OPTION, options, option(name)),
            (Source.ENVIRONMENT, environment, variable(name)),
            (Source.FILE, file, f"{name} in {path}"),
        )
        sources[name] = Source.DEFAULT
        for source, layer, place in layers:
            if name in layer:
                given[name], sources[name], places[name] = layer[name], source, place
                break
    try:
        return Sourced(Settings.model_validate(given), sources)
    except ValidationError as error:
        raise SettingsError(" ".join(_message(detail, places) for detail in error.errors())) from None
