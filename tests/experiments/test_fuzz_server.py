"""Random requests against the server."""

import json
from pathlib import Path

import fuzz_server
import support
from fuzz_server import Fuzzer, is_fine


def test_good_calls_stay_right_beside_random_ones(server: support.ServerProcess, tmp_path: Path) -> None:
    """For a second; the server has no fault."""
    file = tmp_path / "record.json"
    where = ("--target", server.address, "--pid", str(server.process.pid))
    result = support.script(fuzz_server.main, *where, "--minutes", "0.04", "--callers", "4", "--record", file)
    assert result.exit_code == 0, result.output
    record = json.loads(file.read_text("utf-8"))
    assert record["good_calls"]["right"] > 0
    assert record["calls"]
    assert record["resident_mib"]["last_tenth"] > 10


def test_requests_follow_from_the_seed() -> None:
    """The same seed sends the same bytes."""
    first, second, other = (
        [fuzzer.content() for _ in range(50)] for fuzzer in (Fuzzer([], b"good", seed) for seed in (0, 0, 1))
    )
    assert first == second != other


def test_wrong_or_lost_good_call_or_a_fault_is_not_fine() -> None:
    """Any of them."""
    fine = {"good_calls": {"right": 3}, "calls": {"OK": 1, "INVALID_ARGUMENT": 2}, "faults": {}}
    assert is_fine(fine)
    assert not is_fine({**fine, "good_calls": {"right": 3, "wrong": 1}})
    assert not is_fine({**fine, "good_calls": {"right": 3, "UNAVAILABLE": 1}})
    assert not is_fine({**fine, "good_calls": {}})
    assert not is_fine({**fine, "faults": {"INTERNAL: no": 1}})
