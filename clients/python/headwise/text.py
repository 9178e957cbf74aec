"""Text from outside, such as a label's name, as a terminal, a page and a figure can show it."""

import unicodedata

JOINERS = "\u200c\u200d"  # within words of Persian and Hindi, and within emoji
NOT_SHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format and lone surrogate characters, separators of lines
REPLACEMENT = "\ufffd"


def shown(text: str, most: int | None = None) -> str:
    """The text on one line, without characters that control, or cannot be written in a file.

    White space becomes a space and any such character U+FFFD. Of a text wider than `most` columns the middle is left
    out: names often differ at their ends.
    """
    line = "".join(map(_shown_character, text))
    if most is None or _columns(line) <= most:
        return line
    kept = len(line)
    while kept and _columns(line[: (kept + 1) // 2] + line[len(line) - kept // 2 :]) >= most:
        kept -= 1
    return f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"


def _columns(line: str) -> int:
    """Its width: two columns for every character outside the alphabets of Europe and the Near East, and symbols."""
    return sum(2 if ord(character) >= 0x700 and not 0x1E00 <= ord(character) < 0x2E80 else 1 for character in line)


def _shown_character(character: str) -> str:
    if character.isspace():
        return " "
    hidden = unicodedata.category(character) in NOT_SHOWN and character not in JOINERS
    return REPLACEMENT if hidden or ord(character) & 0xFFFE == 0xFFFE else character
