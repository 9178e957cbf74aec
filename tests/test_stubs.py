"""The checked-in stubs are those of `proto/`."""

from pathlib import Path

import processes

ROOT = Path(__file__).parent.parent
STUBS = ROOT / "clients/python/headwise/v1"


def test_generating_the_stubs_again_changes_nothing(tmp_path: Path) -> None:
    """Every generated file stands in the client, byte for byte, and no other."""
    processes.run([ROOT / "scripts/stubs", tmp_path], check=True)
    generated = {path.name: path.read_bytes() for path in (tmp_path / "headwise/v1").iterdir()}
    checked_in = {path.name: path.read_bytes() for path in STUBS.glob("*_pb2*")}
    assert generated == checked_in
    assert len(checked_in) == 6
