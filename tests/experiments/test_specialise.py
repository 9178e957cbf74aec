"""Models for random subsets of the labels, against fresh ones."""

import json
from pathlib import Path

import pytest
import record_study
import specialise
import support

FEW = ("--labels", "3", "--speedup", "1.2", "--threads", "1")
SHORT = ("--set", "prune.epochs=1", "--set", "prune.search.rounds=1", "--set", "prune.search.images=20")


def test_every_subset_has_four_models_on_the_same_images(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table and docs/results.md say what the record does; a second command goes on after the subsets there."""
    arguments = (built / "run", "digits", *FEW, *SHORT, "--results", tmp_path)
    done = support.script(specialise.main, *arguments, "--subsets", "1")
    assert done.exit_code == 0, done.output
    path = tmp_path / "digits/specialise.json"
    record = json.loads(path.read_text("utf-8"))
    (row,) = record["rows"]
    assert set(row["accuracies"]) == set(specialise.KINDS)
    assert row["macs"] < record["dense"]["macs"]
    assert min(row["epochs"].values()) >= 1
    assert f"{100 * row['accuracies']['specialised']:.2f}" in done.stdout
    page = record_study.results_page(Path(specialise.RESULTS))
    assert "Models for 3 of the labels" not in page
    (tmp_path / "digits/study.json").write_bytes((specialise.RESULTS / "digits/study.json").read_bytes())
    assert "Models for 3 of the labels, of 1 random subset, " in record_study.results_page(tmp_path)

    def no_subset_left(*arguments: object) -> None:
        raise AssertionError("this subset was recorded before")

    monkeypatch.setattr(specialise, "row", no_subset_left)
    again = support.script(specialise.main, *arguments, "--subsets", "1")
    assert again.exit_code == 0, again.output
    assert json.loads(path.read_text("utf-8"))["rows"] == [row]


def test_means_are_over_the_subsets() -> None:
    """And differences are paired."""
    rows = [
        {
            "accuracies": dict(zip(specialise.KINDS, accuracies, strict=True)),
            **{"speedup": speedup, "parameters": 10, "macs": 100, "seconds": 1.0},
        }
        for accuracies, speedup in (((0.9, 0.8, 0.6, 0.7), 4.0), ((0.7, 0.8, 0.8, 0.8), 6.0))
    ]
    results = specialise.summary(rows)
    assert results["accuracies"]["dense"] == pytest.approx(0.8)
    assert results["speedup"] == {"mean": 5.0, "lowest": 4.0}
    against = results["specialised_against"]
    assert against["dense"]["mean"] == pytest.approx(0.0)
    assert against["fresh_labels"] == {
        "mean": pytest.approx(0.1),
        "low": 0.0,
        "high": pytest.approx(0.2),
        "not_lower": 2,
    }
    assert "specialised" not in against
