"""How the experiments read and write their records."""

from pathlib import Path

import records
from headwise_exporter.machine import machine


def test_record_states_the_machine(tmp_path: Path) -> None:
    """After what was recorded."""
    records.write_record(tmp_path / "digits/seeds.json", {"images": 360})
    assert records.read_record(tmp_path / "digits/seeds.json") == {"images": 360, "machine": machine()}


def test_record_that_there_is_not_is_empty(tmp_path: Path) -> None:
    """A page leaves out what was not tried."""
    assert records.read_record(tmp_path / "none.json") == {}
