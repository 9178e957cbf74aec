"""Record what was found on a run under results/, and write all pages about records anew.

    exporter measure --run runs/cifar100
    exporter compare --run runs/cifar100 --seeds 3
    exporter subsets --run runs/cifar100
    exporter report runs/cifar100
    python benchmarks/record_study.py runs/cifar100 cifar100

writes results/NAME/study.json, all that the run's report rests on, with the machine it was found on; then, of every
such record, results/NAME/report.html, and docs/results.md. The report of a run that took a checkpoint's weights has the
curve of that checkpoint's training (`record_training.py`). Without arguments the records are judged and the pages
written anew; `--check` writes nothing and fails where docs/results.md is not that of the records. results/README.md has
the commands that made the records.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from headwise_exporter.files import atomic_write, write_json
from headwise_exporter.stages.build import REPORT
from headwise_exporter.studies.report import judged, pictures, svg
from headwise_exporter.studies.report import page as report_page
from headwise_exporter.studies.wording import FILTERS
from jinja2 import Environment, StrictUndefined
from timing import machine

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/results.md"
TEMPLATE = Path(__file__).with_name("results.md.jinja")
STUDY = "study.json"
BESIDE = ("seeds", "images_to_measure_on", "fine_tuning", "masked_training")  # records of other scripts


def recorded(run: Path, name: str) -> dict[str, Any]:
    """All that the report rests on."""
    told: dict[str, Any] = json.loads((run / REPORT).with_name("report.json").read_text("utf-8"))
    del told["training"]["dataset"]  # where it lay
    if told["pruning"] is not None:
        del told["pruning"]["layers"]
    return {**told, "name": name, "machine": machine()}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def studies() -> list[dict[str, Any]]:
    """Every record of a study, judged as of now."""
    return [judged(_read(path)) for path in sorted(ROOT.glob(f"results/*/{STUDY}"))]


def write_report_page(study: dict[str, Any]) -> None:
    """results/NAME/report.html, with the curve of the checkpoint that the run began with."""
    folder, training = ROOT / "results" / study["name"], study["training"]
    if training["initial_weights"] == f"checkpoint:{study['name']}":
        training = training | {"epochs": _read(folder / "training.json")["epochs"]}
    told = study | {"training": training}
    drawn = [(picture, svg(picture.figure)) for picture in pictures(told)]
    with atomic_write(folder / "report.html") as temporary:
        temporary.write_text(report_page(told, drawn), "utf-8")


def page() -> str:
    """docs/results.md, from every record there is."""
    found = [
        study | {name: _read(ROOT / "results" / study["name"] / f"{name}.json") for name in BESIDE}
        for study in studies()
    ]
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters.update(FILTERS)
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(studies=found)


def main(
    run: Annotated[Path | None, typer.Argument(help="Folder of a run with a report.")] = None,
    name: Annotated[str, typer.Argument(help="Of the folder under results/.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Only compare the page with the records.")] = False,
) -> None:
    """Record a run where one is given, and write or check the page."""
    if check:
        if PAGE.read_text("utf-8") != page():
            raise SystemExit(f"{PAGE} is not that of the records: run {Path(__file__).name} without --check")
        return
    if run is not None:
        write_json(ROOT / "results" / name / STUDY, recorded(run, name))
    for study in studies():
        write_json(ROOT / "results" / study["name"] / STUDY, study)
        write_report_page(study)
    with atomic_write(PAGE) as temporary:
        temporary.write_text(page(), "utf-8")


if __name__ == "__main__":
    typer.run(main)
