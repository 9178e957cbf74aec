"""Bodies of requests: JSON as the messages of the contract, pictures as they are or in a form."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Any, NoReturn, TypeVar

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from starlette.datastructures import QueryParams, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from headwise_server.errors import InvalidArgument
from headwise_server.http.reception import TIMEOUT, Received

CHUNK_BYTES = 2**16  # of a form that is parsed between two looks at other calls
LARGE_BYTES = 2**13  # JSON of more is parsed in a thread
MOST_ELEMENTS = 2**14  # of a list that becomes part of a message, which takes 14 microseconds each
FORM_FIELD = "image"
SHOWN_CHARACTERS = 200
Kind = TypeVar("Kind", bound=Message)


class _FormParser(MultiPartParser):
    spool_max_size = 2**31  # in memory, where it is accounted for


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("body", f"expected JSON, found {len(content)} other bytes: {shown(error)}.") from None
    if not isinstance(document, dict):
        raise InvalidArgument("body", "expected a JSON object, found another value.")
    return document


def shown(value: object) -> str:
    """A value as an error repeats it."""
    return str(value)[:SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode().rstrip(".")


async def json_body(content: bytes, make: Callable[[dict[str, Any]], Kind]) -> Kind:
    """What a function makes of the JSON object of a body; in a thread where that may take long.

    Raises:
        InvalidArgument: it is none, or not what the function takes.
    """

    def made() -> Kind:
        return make(_document(content))

    return await asyncio.to_thread(made) if len(content) > LARGE_BYTES else made()


def parsed(value: dict[str, Any], message: Kind) -> Kind:
    """A message from its proto3 JSON.

    Raises:
        InvalidArgument: it has another form, or too long lists.
    """
    for name, part in value.items():
        if isinstance(part, list) and len(part) > MOST_ELEMENTS:
            raise InvalidArgument(shown(name), f"expected at most {MOST_ELEMENTS} elements, found {len(part)}.")
    try:
        ParseDict(value, message)
    except (ParseError, TypeError, ValueError, AttributeError) as error:  # of values of another kind
        name = message.DESCRIPTOR.name
        raise InvalidArgument("body", f"expected a {name} in JSON, found something else: {shown(error)}.") from None
    return message


async def form_files(received: Received, max_files: int) -> list[bytes]:
    """The files of a form's field `image`.

    Raises:
        InvalidArgument: there are other fields, too many files, or it is no form.
    """

    async def chunks() -> AsyncGenerator[bytes, None]:
        for first in range(0, len(received.content), CHUNK_BYTES):
            yield received.content[first : first + CHUNK_BYTES]
            await asyncio.sleep(0)

    parser = _FormParser(received.headers, chunks(), max_files=max_files, max_fields=0)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        expected = f"expected a form with at most {max_files} files in its field {FORM_FIELD!r}"
        raise InvalidArgument("body", f"{expected}, found another: {shown(error.message)}.") from None
    try:
        files = []
        for name, value in form.multi_items():
            if name != FORM_FIELD or not isinstance(value, UploadFile):
                raise InvalidArgument("body", f"expected files in {FORM_FIELD!r} alone, found {shown(name)!r}.")
            files.append(await value.read())
        return files
    finally:
        await form.close()


def check_query(query: QueryParams, known: Collection[str]) -> None:
    """Refuse a query parameter that would be of no effect.

    Raises:
        InvalidArgument: there is one beside those known, or one twice that is no list.
    """
    for name in query:
        if name not in known:
            expected = f"only {', '.join(sorted(known))}" if known else "no parameter"
            raise InvalidArgument(shown(name), f"expected {expected} here.")
    for name in {TIMEOUT, "top_k", "maps", "causal"} & set(query):
        if len(query.getlist(name)) > 1:
            raise InvalidArgument(name, "expected it once, found it several times.")


def whole_number(query: QueryParams, name: str, limit: int = 2**32 - 1) -> int | None:
    """A query parameter that counts something; None where it is absent.

    Raises:
        InvalidArgument: it is none.
    """
    numbers = whole_numbers(query, name, limit)
    return numbers[0] if numbers else None


def whole_numbers(query: QueryParams, name: str, limit: int = 2**32 - 1) -> list[int]:
    """A query parameter that may stand several times.

    Raises:
        InvalidArgument: one is no whole number, or beyond the limit.
    """
    return [_whole_number(text, name, limit) for text in query.getlist(name)]


def truth(query: QueryParams, name: str) -> bool:
    """A query parameter that is true or false; false where it is absent.

    Raises:
        InvalidArgument: it is neither.
    """
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidArgument(name, f"expected true or false, found {shown(text)!r}.")
    return text == "true"


def _whole_number(text: str, name: str, limit: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(limit)) and int(text) <= limit):
        raise InvalidArgument(name, f"expected a whole number from 0 to {limit}, found {shown(text)!r}.")
    return int(text)
