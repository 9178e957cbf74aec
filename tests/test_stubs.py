"""The checked-in stubs are those of `proto/`."""

from pathlib import Path

import processes

ROOT = Path(__file__).parent.parent
FOLDERS = {"clients/python/headwise/v1": 6, "server/headwise_server/open_inference": 4}  # and how many files


def test_generating_the_stubs_again_changes_nothing(tmp_path: Path) -> None:
    """Every generated file stands where it is imported from, byte for byte, and no other."""
    processes.run([ROOT / "scripts/stubs", tmp_path], check=True)
    for folder, count in FOLDERS.items():
        generated = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        checked_in = {path.name: path.read_bytes() for path in (ROOT / folder).glob("*_pb2*")}
        assert generated == checked_in
        assert len(checked_in) == count
