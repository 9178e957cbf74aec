"""Record what a run's report rests on under results/, and write all pages about records.

    exporter measure --run runs/cifar100 --controls
    exporter compare --run runs/cifar100 --seeds 3
    exporter subsets --run runs/cifar100
    exporter report runs/cifar100
    python experiments/record_study.py runs/cifar100 cifar100

writes results/NAME/study.json, all that the run's report rests on, with the machine that it was made on; then, of every
such record, results/NAME/report.html, and docs/results.md. The report of a run that took a checkpoint's weights has the
curve of that checkpoint's training (`record_training.py`). With `--nodes-only` a run of the same weights gives what was
measured of nodes and heads, and the rest of the record stays. Without arguments verdicts and pages are made from the
records there are; `--check` writes nothing and fails where docs/results.md is not that of the records.
results/README.md has the commands that made the records.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from headwise_exporter.files import atomic_write, write_json
from headwise_exporter.machine import machine
from headwise_exporter.stages.run import REPORT_RECORD
from headwise_exporter.studies.drawing import svg
from headwise_exporter.studies.pictures import pictures
from headwise_exporter.studies.report import page as report_page
from headwise_exporter.studies.report import with_verdicts
from headwise_exporter.studies.validation import without_pictures
from headwise_exporter.studies.wording import FILTERS
from jinja2 import Environment, StrictUndefined
from records import (
    DELETION,
    FINE_TUNING,
    IMAGES_TO_MEASURE_ON,
    MASKED_TRAINING,
    RECOVERY,
    RESULTS,
    ROOT,
    SEEDS,
    SPECIALISE,
    STUDY,
    TRAINING,
    NameArgument,
    ResultsOption,
    read_record,
    write_record,
)
from summary import deletion_verdict, expert_agreement, few_labels, label_gains, outcome

PAGE = ROOT / "docs/results.md"
TEMPLATE = Path(__file__).with_name("results.md.jinja")
BESIDE = (SEEDS, IMAGES_TO_MEASURE_ON, FINE_TUNING, RECOVERY, MASKED_TRAINING, SPECIALISE)


def recorded(run: Path, name: str) -> dict[str, Any]:
    """All that the report rests on but images, which are their data set's."""
    report = read_record(run / REPORT_RECORD)
    if report["validation"] is not None:
        report["validation"] = without_pictures(report["validation"])
    del report["training"]["dataset"]  # where it lay
    if report["pruning"] is not None:
        report["pruning"].pop("layer_masks", None)  # layer by layer: no page shows them
    return {**report, "name": name}


def with_nodes_of(record: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """A record with what was measured of the same model's nodes and heads later, and on which machine.

    Raises:
        SystemExit: it is another model.
    """
    of = [
        (each["label_names"], each["training"]["initial_weights"], each["training"]["recipe"]["model"])
        for each in (record, later)
    ]
    if of[0] != of[1] or of[0][1] is None:
        raise SystemExit("expected a run that took the weights of the recorded one as they are, found another model")
    measured = {key: later[key] for key in ("findings", "controls", "examples")}
    return {**record, **measured, "nodes_machine": machine()}


def studies(results: Path) -> list[dict[str, Any]]:
    """Every record of a study, with its verdicts as of now."""
    return [with_verdicts(read_record(path)) for path in sorted(results.glob(f"*/{STUDY}"))]


def write_report_page(study: dict[str, Any], folder: Path) -> None:
    """report.html in the folder, with the curve of the checkpoint that the run began with."""
    training = study["training"]
    if training["initial_weights"] == f"checkpoint:{study['name']}":
        study = study | {"training": training | {"epochs": read_record(folder / TRAINING)["epochs"]}}
    drawn = [(picture, svg(picture.draw())) for picture in pictures(study)]
    with atomic_write(folder / "report.html") as temporary:
        temporary.write_text(report_page(study, drawn), "utf-8")


def summarised(study: dict[str, Any], results: Path) -> dict[str, Any]:
    """A study with the other records of its data set, and what the top of the page says of all of these."""
    beside = {Path(file).stem: read_record(results / study["name"] / file) for file in BESIDE}
    summary = {
        "gains": label_gains(study["comparison"]) if study["comparison"] else [],
        "few_labels": few_labels(study["subsets"]) if study["subsets"] else None,
        "agreements": expert_agreement(beside["seeds"]) if beside["seeds"] else [],
    }
    return {"controls": None} | study | beside | summary  # which earlier records lack


def results_page(results: Path) -> str:
    """docs/results.md, from every record there is."""
    shown = [summarised(study, results) for study in studies(results)]
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters.update({**FILTERS, "deletion_verdict": deletion_verdict, "outcome": outcome})
    deletions = [read_record(path) | {"name": path.parent.name} for path in sorted(results.glob(f"*/{DELETION}"))]
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(studies=shown, deletions=deletions)


def main(
    run: Annotated[Path | None, typer.Argument(help="Folder of a run with a report.")] = None,
    name: NameArgument = "",
    nodes_only: Annotated[
        bool, typer.Option("--nodes-only", help="Record nodes and heads alone, and keep the rest of the record.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only compare the page with the records.")] = False,
    results: ResultsOption = RESULTS,
    page: Annotated[Path, typer.Option(help="The page of all records.")] = PAGE,
) -> None:
    """Record a run where one is given, and write or check the page."""
    if check:
        if page.read_text("utf-8") != results_page(results):
            raise SystemExit(f"{page} is not that of the records: run {Path(__file__).name} without --check")
        return
    if run is not None:
        path = results / name / STUDY
        if nodes_only:
            write_json(path, with_nodes_of(read_record(path), recorded(run, name)))
        else:
            write_record(path, recorded(run, name))
    for study in studies(results):
        folder = results / study["name"]
        write_json(folder / STUDY, study)
        write_report_page(study, folder)
    with atomic_write(page) as temporary:
        temporary.write_text(results_page(results), "utf-8")


if __name__ == "__main__":
    typer.run(main)
