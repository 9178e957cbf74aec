"""What parsing a message takes, from its bytes alone.

Two bytes on the wire can be an empty message in a list, for which the parser makes an object of a hundred: 8 MiB become
352 MiB, while the interpreter stands still. So the fields are counted first, without parsing them, and no further than
to a limit. The costs are upper bounds for the parser of protobuf 6 and 7 (upb), which a test measures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from headwise_server.errors import InvalidArgument

VARINT, FIXED_64, DELIMITED, FIXED_32 = 0, 1, 2, 5  # wire types
WIDTH_BYTES = {FIXED_64: 8, FIXED_32: 4}
GROWTH = 3  # lists grow by doubling, and what they leave behind stays until the message goes
POINTER_BYTES = GROWTH * 8
ELEMENT_BYTES = GROWTH * 16  # of bytes or text, beside its content
WIDE_BYTES, NARROW_BYTES = GROWTH * 8, GROWTH * 4  # of numbers
MAP_BYTES = 192  # of an entry


@dataclass(frozen=True)
class _Field:
    """What a field takes."""

    base_bytes: int
    factor: int  # for each byte of its content
    inner: Descriptor | None = None  # what its content is made of


UNKNOWN = _Field(8, 2)  # is kept as it came


@cache
def _fields_of(descriptor: Descriptor) -> dict[int, _Field]:
    return {field.number: _field(field) for field in descriptor.fields}


def _field(field: FieldDescriptor) -> _Field:
    inner: Descriptor | None = field.message_type
    if inner is not None:
        entry_bytes = MAP_BYTES if inner.GetOptions().map_entry else 0
        return _Field(POINTER_BYTES + entry_bytes + 16 * (len(inner.fields) + 1), 0, inner)
    if field.type in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
        return _Field(ELEMENT_BYTES, 1)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return _Field(WIDE_BYTES, 1)
    is_wide = field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
    number_bytes = WIDE_BYTES if is_wide else NARROW_BYTES
    return _Field(number_bytes, number_bytes)  # packed, each byte may be one


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number, and where it ends; raises IndexError where the content does."""
    value, shift = content[position], 7
    if value < 0x80:  # most are
        return value, position + 1
    value &= 0x7F
    while (byte := content[position := position + 1]) & 0x80 and shift < 63:
        value |= (byte & 0x7F) << shift
        shift += 7
    return value | byte << shift, position + 1


def _top_level(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of each field of a message, and where its content begins and ends; up to the first fault."""
    try:
        while position < end:
            key, first = _varint(content, position)
            wire_type, position = key & 7, first
            if wire_type == DELIMITED:
                length, first = _varint(content, first)
                position = first + length
            elif wire_type == VARINT:
                _, position = _varint(content, first)
            else:  # the marks of a group have no content
                position += WIDTH_BYTES.get(wire_type, 0)
            if position > end:
                return
            yield key >> 3, first, position if wire_type == DELIMITED else first
    except IndexError:
        return


def parsing_bytes(content: bytes, descriptor: Descriptor, max_fields: int) -> int:
    """The most memory that the parsed message takes, beside `content`; in one with a fault, that of what comes before.

    Args:
        max_fields: of all messages together, those inside included.

    Raises:
        InvalidArgument: there are more fields.
    """
    size_bytes, fields = 16 * (len(descriptor.fields) + 1), 0
    pending = [(0, len(content), descriptor)]
    while pending:
        begin, end, message = pending.pop()
        known = _fields_of(message)
        for number, first, last in _top_level(content, begin, end):
            fields += 1
            if fields > max_fields:
                raise InvalidArgument("request", f"expected at most {max_fields} fields in all, found more.")
            field = known.get(number, UNKNOWN)
            size_bytes += field.base_bytes + field.factor * (last - first)
            if field.inner is not None:
                pending.append((first, last, field.inner))
    return size_bytes
