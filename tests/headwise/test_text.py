"""Text from outside, shown."""

from xml.etree import ElementTree

import pytest
from headwise.text import shown
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(st.characters()), st.integers(5, 40))
def test_any_text_becomes_a_line_that_any_file_takes(text: str, most: int) -> None:
    """One line, no longer than asked for, in UTF-8 and in XML; the same when shown again."""
    line = shown(text, most)
    assert len(line) <= most
    assert len(line.splitlines()) <= 1
    escaped = line.replace("&", "&amp;").replace("<", "&lt;")
    assert (ElementTree.fromstring(f"<a>{escaped}</a>".encode()).text or "") == line
    assert shown(line, most) == line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bird of paradise", "bird of paradise"),
        ("a\nb\tc", "a b c"),
        ("\x1b[31mred\x00", "\ufffd[31mred\ufffd"),
        ("caf\udce9", "caf\ufffd"),  # of a folder whose name is not UTF-8
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("向日葵 شجرة क्‍ष 👩‍🌾", "向日葵 شجرة क्‍ष 👩‍🌾"),
    ],
)
def test_names_stay_as_they_are_but_for_what_cannot_be_shown(text: str, expected: str) -> None:
    """Every script; and what would control a terminal is replaced."""
    assert shown(text) == expected


def test_long_text_keeps_both_ends() -> None:
    """The middle is left out."""
    assert shown(f"first{'x' * 200}last", 9) == "firs…last"
