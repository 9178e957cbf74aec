"""A study recorded, and the pages about all records."""

import json
from pathlib import Path

import pytest
import record_study
import support

RESULTS = Path(__file__).parents[2] / "results"
RECORD = json.loads((RESULTS / "digits/study.json").read_text("utf-8"))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, ...]:
    """Options by which the script writes nothing of the source tree."""
    return ("--results", str(tmp_path / "results"), "--page", str(tmp_path / "results.md"))


def test_run_is_recorded_and_both_pages_are_written(built: Path, tmp_path: Path, folders: tuple[str, ...]) -> None:
    """In the keys of results/digits/study.json; without what only the run's own machine knows."""
    done = support.script(record_study.main, built / "run", "small", *folders)
    assert done.exit_code == 0
    study = json.loads((tmp_path / "results/small/study.json").read_text("utf-8"))
    assert set(study) == set(RECORD)
    assert study["validation"]["errors"]
    assert "data:image" not in (tmp_path / "results/small/study.json").read_text("utf-8")
    assert "<img" not in (tmp_path / "results/small/report.html").read_text("utf-8")
    assert "dataset" not in study["training"]
    assert set(study["pruning"]) <= {*RECORD["pruning"], "criterion_chosen"}  # JSON leaves out what is false
    assert "not compared" in (tmp_path / "results.md").read_text("utf-8")
    assert "<h1>digits" not in (tmp_path / "results/small/report.html").read_text("utf-8")
    assert support.script(record_study.main, "--check", *folders).exit_code == 0


def test_nodes_of_the_same_weights_are_recorded_alone(tmp_path: Path) -> None:
    """All else stays as it was; nodes of another model are refused."""
    earlier = json.loads((RESULTS / "cifar100/study.json").read_text("utf-8"))
    later = json.loads(json.dumps(earlier)) | {"findings": {"images": 3}, "controls": {}, "examples": []}
    later["comparison"] = None
    together = record_study.with_nodes_of(earlier, later)
    assert (together["findings"], together["comparison"]) == ({"images": 3}, earlier["comparison"])
    assert together["nodes_machine"]["cores"] >= 1
    later["training"]["recipe"]["model"]["width"] += 1
    with pytest.raises(SystemExit, match="found another model"):
        record_study.with_nodes_of(earlier, later)


def test_page_that_is_not_of_the_records_is_named(built: Path, tmp_path: Path, folders: tuple[str, ...]) -> None:
    """With what makes it that again; nothing is written."""
    support.script(record_study.main, built / "run", "small", *folders)
    page = tmp_path / "results.md"
    page.write_text(page.read_text("utf-8").replace("not tested", "holds"))
    with pytest.raises(SystemExit, match=r"is not that of the records: run record_study\.py"):
        record_study.main(check=True, results=tmp_path / "results", page=page)
    assert "not tested" not in page.read_text("utf-8")


def test_checkpoints_own_curve_is_in_the_report_of_a_run_that_took_its_weights(tmp_path: Path) -> None:
    """Such a run has no epochs of its own."""
    study = json.loads((RESULTS / "cifar100/study.json").read_text("utf-8"))
    assert study["training"]["epochs"] == []
    (tmp_path / "training.json").write_bytes((RESULTS / "cifar100/training.json").read_bytes())
    record_study.write_report_page(study, tmp_path)
    assert "training loss" in (tmp_path / "report.html").read_text("utf-8")


def test_summary_is_left_out_where_nothing_was_tried(built: Path, tmp_path: Path, folders: tuple[str, ...]) -> None:
    """Neither its tables nor its words."""
    support.script(record_study.main, built / "run", "small", *folders)
    page = (tmp_path / "results.md").read_text("utf-8")
    assert "## In short" in page
    for missing in ("know no label", "a few labels need", "Experts of other trainings"):
        assert missing not in page
