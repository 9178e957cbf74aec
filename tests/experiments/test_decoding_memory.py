"""What decoding takes in memory, measured."""

import json
from pathlib import Path

import decoding_memory
import pytest
import support

RECORD = json.loads((Path(__file__).parents[2] / "results/decoding_memory.json").read_text("utf-8"))


def test_images_are_measured_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the keys of results/decoding_memory.json."""
    monkeypatch.setattr(decoding_memory, "IMAGES", decoding_memory.IMAGES[:2])
    done = support.script(decoding_memory.main, "--side", "1000", "--json", tmp_path / "record.json")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert record.keys() == RECORD.keys()
    assert [row.keys() for row in record["rows"]] == [RECORD["rows"][0].keys()] * 2
    assert "PNG" in done.output


def test_every_bound_held() -> None:
    """Of the record."""
    assert len(RECORD["rows"]) > 30
    assert all(row["peak_bytes"] <= row["bound_bytes"] for row in RECORD["rows"])
