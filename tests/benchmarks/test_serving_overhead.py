"""What serving costs beside the bare engine."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import serving_overhead
import support
from serving_overhead import RATIOS

SMALL = ("--engine", "onnxruntime", "--rounds", "1", "--seconds", "1")


@pytest.fixture(scope="module")
def record(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one short run."""
    file, core = tmp_path_factory.mktemp("record") / "serving_overhead.json", min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    result = support.script(serving_overhead.main, bundle, *SMALL, "--server-cores", str(core), "--record", file)
    assert result.exit_code == 0, result.output
    assert "n = 1 rounds of 1 s" in " ".join(result.output.split())
    assert os.sched_getaffinity(0) == before
    values: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return values


def test_record_says_what_ran_where(record: dict[str, Any]) -> None:
    """The model with its hash, the engine, and the cores of both sides."""
    assert (record["model"]["name"], record["model"]["engine"]) == ("digits", "onnxruntime")
    assert record["settings"]["server_cores"] == [min(os.sched_getaffinity(0))]
    assert record["settings"]["client_cores"] == sorted(os.sched_getaffinity(0))
    assert record["settings"]["streams"] == 1  # one for each core of the server
    assert record["machine"]["cores"] >= 1


def test_every_case_answered_and_ratios_are_those_of_the_cases(record: dict[str, Any]) -> None:
    """Of one round; each case over gRPC went at the rate that it is named for."""
    cases = record["cases"]
    assert all(figures["images_per_second"]["median"] > 0 for case, figures in cases.items() if case != "overload")
    for name, ((case, figure), (base, of)) in RATIOS.items():
        expected = cases[case][figure]["median"] / cases[base][of]["median"]
        assert record["ratios"][name]["median"] == pytest.approx(expected)
    assert cases["explain"]["failed_share"]["median"] == 0
    assert cases["overload"]["offered_images_per_second"]["median"] > cases["classify"]["images_per_second"]["median"]


def test_summary_is_of_the_rounds() -> None:
    """Median with least and largest; none where a round has no such figure."""
    assert serving_overhead.summary([3.0, 1.0, 2.5]) == {"median": 2.5, "least": 1.0, "largest": 3.0}
    assert set(serving_overhead.summary([3.0, float("nan")]).values()) == {None}


def test_server_that_does_not_start_is_said(bundle: Path) -> None:
    """With its own words."""
    with pytest.raises(SystemExit, match=r"the server did not start: .*unknown engine 'abacus'"):
        serving_overhead.main(bundle, engine="abacus", rounds=1, seconds=0.1)
