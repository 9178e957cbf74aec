"""Recorded trainings: the recipes as they stand, how they are described, and the trained weights."""

import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import typer
from google.protobuf import json_format
from headwise.v1.bundle_pb2 import Bundle, PruningProvenance
from headwise_exporter.commands import console
from headwise_exporter.commands.app import app
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.initial_weights import load_initial_weights
from headwise_exporter.model.shipped import shipped_checkpoints
from headwise_exporter.overrides import override
from headwise_exporter.pruning.names import ANDC
from headwise_exporter.pruning.settings import CANDIDATES, LITERAL
from headwise_exporter.recipes import RECIPES, Recipe, describe, from_record
from headwise_exporter.studies.report import with_verdicts
from headwise_exporter.studies.verdicts import FREE
from headwise_exporter.training.evaluation import wilson_interval

ROOT = Path(__file__).parent.parent
RECORDED = {"digits": "digits", "cifar100": "cifar100_cpu", "flowers102": "flowers102_cpu"}  # data set: recipe
TRAINED = {**RECORDED, "flowers102_taught": "flowers102_taught"}  # shipped model: recipe
SHAPES = {"digits": (8, 1, 10), "cifar100": (32, 3, 100), "flowers102": (64, 3, 102), "flowers102_taught": (80, 3, 102)}
MIB = 1 << 20
SETTINGS = ("prune", "probes", "training")  # beside a study's provenance
DOCUMENTED = ("results/README.md", "exporter/headwise_exporter/checkpoints/README.md")


def record(name: str) -> dict[str, Any]:
    """The record of a training."""
    values: dict[str, Any] = json.loads((ROOT / "results" / name / "training.json").read_text("utf-8"))
    return values


@pytest.mark.parametrize("name", TRAINED)
def test_recipe_is_the_one_that_was_run(name: str) -> None:
    """Model, training, teaching and split; a recipe that is changed is to be run again."""
    ran, stands = from_record(record(name)["recipe"]), RECIPES[TRAINED[name]]()
    assert ran.teaching == stands.teaching
    parts = [(recipe.model, recipe.training, recipe.protocol, recipe.image_size) for recipe in (ran, stands)]
    assert parts[0] == parts[1]
    assert len(record(name)["epochs"]) == stands.training.epochs


@pytest.mark.parametrize("name", TRAINED)
def test_description_of_a_recipe_has_its_result(name: str) -> None:
    """Accuracy with its interval, images and minutes, as recorded."""
    test, description = record(name)["test"], describe(TRAINED[name])
    low, accuracy, high = (100 * test[key] for key in ("interval_low", "accuracy", "interval_high"))
    assert f"{accuracy:.2f} % ({low:.2f}-{high:.2f}) on {test['images']:,} test images" in description
    assert f"{record(name)['minutes']:.2g} minutes" in description
    interval = wilson_interval(test["correct"], test["images"])
    assert (interval.low, interval.high) == (test["interval_low"], test["interval_high"])


@pytest.mark.parametrize("name", TRAINED)
def test_shipped_weights_are_of_the_recorded_model(name: str) -> None:
    """Every tensor fits, the classifier head too; small enough to be in a source tree."""
    recipe: Recipe = from_record(record(name)["recipe"])
    model = CCT(recipe.model.config(*SHAPES[name]))
    taken = load_initial_weights(model, f"checkpoint:{name}")
    assert len(taken.taken) == len(model.state_dict())
    assert shipped_checkpoints()[name].stat().st_size <= 8 * MIB


@pytest.mark.parametrize("name", TRAINED)
def test_readme_and_checkpoints_have_the_recorded_results(name: str) -> None:
    """One row each, with the recorded accuracy and minutes."""
    test = record(name)["test"]
    low, accuracy, high = (100 * test[key] for key in ("interval_low", "accuracy", "interval_high"))
    for page in ("README.md", "exporter/headwise_exporter/checkpoints/README.md"):
        rows = [line for line in (ROOT / page).read_text("utf-8").splitlines() if line.startswith(f"| `{name}`")]
        assert len(rows) == 1
        for expected in (
            f"{accuracy:.2f} ({low:.2f}-{high:.2f})",
            TRAINED[name],
            f"| {record(name)['minutes']:.2g} |",
        ):
            assert expected in rows[0]


def study(name: str) -> dict[str, Any]:
    """The record of a study of a trained model's nodes, heads and connections."""
    values: dict[str, Any] = json.loads((ROOT / "results" / name / "study.json").read_text("utf-8"))
    return values


@pytest.mark.parametrize(("name", "column"), [("cifar100", 2), ("flowers102", 3)])
def test_readme_has_the_verdicts_on_the_claims(name: str, column: int) -> None:
    """Each verdict in its row, with the points that ANDC loses at every share and the heads that are sharper."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| claim |")) + 2
    cells = [line.split("|")[column].strip() for line in lines[first : first + 4]]
    recorded = study(name)
    for verdict, cell in zip(recorded["verdicts"], cells, strict=True):
        assert cell.startswith(verdict["finding"])
    lost = [-100 * row["to_dense"]["mean"] for row in recorded["comparison"]["results"] if row["mask_by"] == ANDC]
    assert cells[2].endswith(": " + ", ".join("none" if points <= 100 * FREE else f"{points:.1f}" for points in lost))
    counts = recorded["verdicts"][3]["numbers"][0].partition("trained ")[2]
    assert cells[3].endswith(f"({counts.split(',')[0]})")


@pytest.mark.parametrize("name", RECORDED)
def test_no_claim_holds_for_a_control(name: str) -> None:
    """Nodes and heads of every record were judged against untrained models and exchanged labels, which fail."""
    for verdict in study(name)["verdicts"]:
        assert set(verdict["controls"].values()) <= {"does not hold here"}
        assert len(verdict["controls"]) == (0 if "Pruning" in verdict["claim"] else 3)


@pytest.mark.parametrize("name", RECORDED)
def test_study_was_recorded_with_an_existing_recipe(name: str) -> None:
    """What a study's settings were can be read back; its model is that of the recorded training."""
    assert from_record(study(name)["training"]["recipe"]).model == from_record(record(name)["recipe"]).model


@pytest.mark.parametrize("name", RECORDED)
def test_pruning_is_recorded_in_the_words_of_the_manifest(name: str) -> None:
    """How the pruned model came about reads back as the contract's message."""
    pruning = {key: value for key, value in study(name)["pruning"].items() if key not in SETTINGS}
    provenance = json_format.ParseDict(pruning, PruningProvenance())
    assert (provenance.layers, provenance.mask_by) == LITERAL
    assert [(masks.layers, masks.mask_by) for masks in provenance.masks] == [*CANDIDATES]


def test_recorded_build_is_what_the_command_prints() -> None:
    """Every key of `exporter build --json`, and no other."""
    build = json.loads((ROOT / "results/digits/build.json").read_text("utf-8"))
    manifest = json_format.ParseDict(build, Bundle())
    assert json.loads(console.manifest_json(manifest)) == build


def test_verdicts_are_those_of_the_recorded_figures() -> None:
    """Nothing was written into a record by hand."""
    for name in RECORDED:
        assert json.loads(json.dumps(with_verdicts(study(name)))) == study(name)


def test_results_page_is_that_of_the_records() -> None:
    """docs/results.md is generated, and was generated after the last record."""
    command = [sys.executable, ROOT / "experiments/record_study.py", "--check"]
    process = processes.run(command)
    assert process.returncode == 0, process.stderr


def commands(page: str) -> list[list[str]]:
    """Every command of a page's indented blocks, as its words."""
    lines = (ROOT / page).read_text("utf-8").replace("\\\n", " ").replace("$seed", "0").splitlines()
    indented = (shlex.split(line) for line in lines if line.startswith("    "))
    return [words for words in indented if words[0] in ("exporter", "python")]


@pytest.mark.parametrize("words", [words for page in DOCUMENTED for words in commands(page)], ids=" ".join)
def test_documented_commands_exist(words: list[str]) -> None:
    """Subcommand, options and settings of every command that made a record."""
    program, name, *arguments = words
    if program == "exporter":
        group = typer.main.get_command(app)
        context = group.commands[name].make_context(name, arguments)
    else:
        script = typer.Typer()
        script.command()(importlib.import_module(Path(name).stem).main)
        context = typer.main.get_command(script).make_context(name, arguments)
    override(RECIPES["digits"](), context.params.get("settings") or ())


def test_readme_shows_what_explain_prints() -> None:
    """The table is drawn from the recorded reply by the command's own code."""
    command = [sys.executable, str(ROOT / "experiments/explain_photo.py"), "--check"]
    process = processes.run(command)
    assert process.returncode == 0, process.stderr


def test_documentation_of_serving_has_what_was_recorded() -> None:
    """Ratios with their spread, refusals, wasted images, calls of the soak and what memory they left."""
    page = (ROOT / "docs/serving.md").read_text("utf-8")
    overhead, in_float32, soak = (
        json.loads((ROOT / "results/cifar100" / f"{name}.json").read_text("utf-8"))
        for name in ("serving_overhead", "serving_overhead_f32", "soak")
    )
    for name, ratio in overhead["ratios"].items():
        columns = (
            f"{of['median']:.3g} ({of['least']:.3g}-{of['largest']:.3g})" for of in (ratio, in_float32["ratios"][name])
        )
        assert f"| {' | '.join(columns)} |" in page
    for record in (overhead, in_float32):
        assert f"n = {record['settings']['rounds']} rounds of {record['settings']['seconds']:g} s" in page
        assert (record["settings"]["server_cores"], record["settings"]["client_cores"]) == ([0], [1])
        assert record["cases"]["cancelling"]["wasted_images"]["largest"] == 0
    refused = (record["cases"]["overload"]["refused_in_10_ms_share"]["least"] for record in (overhead, in_float32))
    assert f"at least {100 * min(refused):.2f} % of the refusals" in page
    assert f"{soak['calls']['ok']:,} calls were answered" in page
    assert f"{soak['resident_mib']['growth']:.1f} MiB more" in page
    assert (soak["wrong_replies"], soak["calls"]["refused"], soak["calls"]["failed"]) == (0, 0, 0)
