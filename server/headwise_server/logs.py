"""What the log says: one line for each event, as text or as JSON, with the request that it belongs to.

No more than `LINES_PER_SECOND` lines of one kind are written in a second, so that what a client causes cannot fill a
disk; how many were left out is said at the next line of any kind, or at the end. A kind is a logger, a level and a
message before its values are put in.
"""

import json
import logging
import random
import re
import sys
import time
from collections import Counter
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

import grpc

LINES_PER_SECOND = 50
MOST_KINDS = 1000  # of one second; all others are one kind
REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID = re.compile(r"[!-~]{1,128}")  # printable, no spaces
GRPC = "grpc._cython.cygrpc"
ACCESS = logging.getLogger("headwise_server.access")
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CURRENT: ContextVar[str] = ContextVar("request_id", default="")  # of the request that is being answered
Kind = tuple[str, int, str]
OTHERS: Kind = ("", logging.NOTSET, "lines of many other kinds")


class LogFormat(StrEnum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


def request_id(given: str | bytes | None) -> str:
    """The id that a request came with, if it is short and printable, else a new one."""
    text = given.decode("latin-1") if isinstance(given, bytes) else given or ""
    return text if REQUEST_ID.fullmatch(text) else f"{random.getrandbits(128):032x}"  # no secret


class TextFormatter(logging.Formatter):
    """A line for people.

    Args:
        worker: number of the process, where the server has several.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__(TEXT if worker is None else TEXT.replace("%(name)s", f"worker {worker} %(name)s"))

    def format(self, record: logging.LogRecord) -> str:
        """The line, with the request at its end."""
        line = super().format(record)
        return f"{line} [{identifier}]" if (identifier := CURRENT.get()) and not record.exc_info else line


class JsonFormatter(logging.Formatter):
    """A line for machines: an object with time (RFC 3339), level, logger, message and what the event has besides."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        value = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._worker,
            **getattr(record, "fields", {}),
        }
        if identifier := CURRENT.get():
            value["request_id"] = identifier
        if record.exc_info:
            value["exception"] = self.formatException(record.exc_info)
        return json.dumps(value, ensure_ascii=True, default=str)  # ASCII: no line break of any script inside


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes lines, not too many of one kind."""

    def __init__(self, stream: TextIO, lines_per_second: int = LINES_PER_SECOND) -> None:
        super().__init__(stream)
        self._limit, self._second, self._counts = lines_per_second, 0, Counter[Kind]()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, unless there were too many like it; the logging module holds the handler's lock."""
        second = int(time.monotonic())
        if second != self._second:
            self._tell_left_out()
            self._second = second
        kind: Kind = (record.name, record.levelno, str(record.msg))
        if kind not in self._counts and len(self._counts) >= MOST_KINDS:
            kind = OTHERS
        self._counts[kind] += 1
        if self._counts[kind] <= self._limit:
            super().emit(record)

    def _tell_left_out(self) -> None:
        counts, self._counts = self._counts, Counter()
        token = CURRENT.set("")  # they belong to no one request
        for (name, level, message), count in counts.items():
            if count > self._limit:
                values = {"name": name, "levelno": level, "levelname": logging.getLevelName(level)}
                text = f"left out {count - self._limit} more lines of a second like: {message}"
                extra = {"msg": text, "args": (), "fields": {"left_out": count - self._limit}}
                super().emit(logging.makeLogRecord({**values, **extra}))
        CURRENT.reset(token)

    def close(self) -> None:
        """Say what was left out last."""
        self.acquire()
        try:
            self._tell_left_out()
        finally:
            self.release()
        super().close()


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Not where a client has left while its reply was being sent, of which grpc.aio makes an error with a traceback."""
    kind = record.exc_info[0] if record.exc_info else None
    return not (record.name == GRPC and kind and issubclass(kind, grpc.aio.InternalError))


def configure(
    log_format: str = LogFormat.TEXT, level: str = "info", *, access_log: bool = False, worker: int | None = None
) -> None:
    """Have the process log to stderr.

    Args:
        level: of the server's own lines; libraries say nothing below info.
        access_log: a line for each request, which otherwise comes with the level debug.
        worker: number of this process, where the server has several.
    """
    handler = LimitedHandler(sys.stderr)
    handler.addFilter(_is_worth_a_line)
    handler.setFormatter(JsonFormatter(worker) if log_format == LogFormat.JSON else TextFormatter(worker))
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO), force=True)
    logging.getLogger("headwise_server").setLevel(number)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    ACCESS.setLevel(logging.DEBUG if access_log else logging.NOTSET)
