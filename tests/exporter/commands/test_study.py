"""Commands that try something on a finished run, as a user calls them."""

import json
from pathlib import Path

from support import exporter


def test_comparison_has_a_row_for_each_share_and_choice_of_masks(run: Path) -> None:
    """ANDC is compared even without an option for it."""
    arguments = ("compare", "--run", run, "--share", "0.5", "--share", "0.1", "--mask-by", "random", "--seeds", "1")
    few = ("--set", "prune.images=100")
    shown = exporter(*arguments, *few)
    assert shown.exit_code == 0, shown.output
    for expected in ("359 validation images", "dense", "andc", "random", "McNemar"):
        assert expected in shown.output
    record = json.loads(exporter(*arguments, *few, "--json").stdout)
    assert [(row["share"], row["mask_by"]) for row in record["rows"][1:]] == [
        (share, mask_by) for share in (0.5, 0.1) for mask_by in ("andc", "random")
    ]


def test_fine_tuning_takes_other_settings_than_the_recipes(run: Path) -> None:
    """Settings are given by name, for one command, and recorded. Unknown ones are refused."""
    arguments = (
        "compare",
        "--run",
        run,
        "--share",
        "0.5",
        "--mask-by",
        "random",
        "--seeds",
        "1",
        "--set",
        "prune.images=100",
        "--json",
    )
    record = json.loads(exporter(*arguments, "--set", "prune.batch_size=50").stdout)
    assert record["training"]["batch_size"] == record["settings"]["batch_size"] == 50
    assert json.loads(exporter(*arguments).stdout)["training"]["batch_size"] == 64
    for command in (arguments[:3], ("prune", "--run", run)):
        refused = exporter(*command, "--set", "prune.luck=1")
        assert refused.exit_code == 1
        assert "unknown setting prune.luck" in refused.stderr


def test_removal_for_subsets_is_shown_beside_taylor(run: Path) -> None:
    """The command prints a table, or JSON for programs."""
    arguments = ("subsets", "--run", run, "--labels", "3", "--subsets", "2")
    shown = exporter(*arguments)
    assert shown.exit_code == 0, shown.output
    for expected in ("taylor*contrast", "Wilcoxon"):
        assert expected in shown.output
    record = json.loads(exporter(*arguments, "--json").stdout)
    assert {len(row["labels"]) for row in record["rows"]} == {3}
    assert exporter("subsets", "--run", run, "--labels", "11").exit_code == 2


def test_report_is_a_page_in_the_runs_folder(run: Path) -> None:
    """The command prints the page's path; pictures are left out on request."""
    result = exporter("report", run)
    assert result.exit_code == 0, result.output
    assert "report/report.html" in result.output
    assert "<img" in (run / "report/report.html").read_text("utf-8")
    assert exporter("report", run, "--no-pictures").exit_code == 0
    assert "<img" not in (run / "report/report.html").read_text("utf-8")


def test_unknown_choice_of_masks_is_refused_before_anything_is_trained(built: Path) -> None:
    """The message lists the known choices."""
    result = exporter("compare", "--run", built / "run", "--mask-by", "luck")
    assert result.exit_code == 2
    assert "wanda" in result.output
