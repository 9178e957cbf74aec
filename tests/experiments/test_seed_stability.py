"""Experts of several trainings."""

import json
from pathlib import Path

import seed_stability
import support

RECORD = json.loads((Path(__file__).parents[2] / "results/digits/seeds.json").read_text("utf-8"))


def test_a_run_agrees_with_itself(built: Path, tmp_path: Path) -> None:
    """In the keys of results/digits/seeds.json: three pairs of runs, two encoders."""
    run = built / "run"
    done = support.script(seed_stability.main, "digits", run, run, run, "--results", tmp_path)
    record = json.loads((tmp_path / "digits/seeds.json").read_text("utf-8"))
    assert list(record) == list(RECORD)
    assert len(record["rows"]) == len(done.stdout.splitlines()) == 6
    for row in record["rows"]:
        assert list(row) == list(RECORD["rows"][0])
        assert row["agreement"] == 1.0


def test_encoders_that_share_no_label_have_no_figure() -> None:
    """Rather than a zero."""
    none, some = ({"recognising_nodes_HK": [[count, 0], [0, 0]]} for count in (0, 3))
    assert seed_stability.matched(none, some) == {}
