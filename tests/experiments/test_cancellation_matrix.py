"""The matrix of cancellations, against the server."""

import json
from pathlib import Path
from typing import Any

import cancellation_matrix
import numpy as np
import support
from cancellation_matrix import MOMENTS, are_equal


def test_no_neighbour_is_hurt_hung_or_lost(server: support.ServerProcess, tmp_path: Path) -> None:
    """At any position and moment; what is never cancelled in time is no case."""
    file = tmp_path / "record.json"
    arguments = ("--target", server.address, "--model", "digits", "--calls", "4", "--rounds", "1", "--record", file)
    result = support.script(cancellation_matrix.main, *arguments)
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(file.read_text("utf-8"))
    assert record["server"]["name"] == "headwise"
    assert record["moments"].keys() == MOMENTS.keys()
    for counts in record["moments"].values():
        assert (counts["cases"], counts["neighbours"]) == (4, 12)
        assert (counts["hurt"], counts["hung"], counts["lost"]) == (0, 0, 0)
    assert record["moments"]["before it is sent"]["cancelled"] == 4


def test_outputs_that_differ_are_seen() -> None:
    """Beyond the tolerance, in number or by name."""
    ones, close, other = (np.full(3, value, "<f4").tobytes() for value in (1.0, 1.0005, 1.5))
    assert are_equal({"logits FP32": ones}, {"logits FP32": close})
    assert not are_equal({"logits FP32": ones}, {"logits FP32": other})
    assert not are_equal({"logits FP32": ones + ones}, {"logits FP32": ones})
    assert not are_equal({"labels BYTES": b"3"}, {"labels BYTES": b"4"})
    assert not are_equal({"logits FP32": ones}, {"other FP32": ones})
