"""Record what was found on a run under results/, and write docs/results.md anew from all such records.

    exporter measure --run runs/cifar100
    exporter compare --run runs/cifar100 --seeds 3
    exporter subsets --run runs/cifar100
    exporter report runs/cifar100
    python benchmarks/record_study.py runs/cifar100 cifar100

writes results/NAME/study.json (findings, comparison, subsets, verdicts, machine; which images each model gets wrong is
left out) and results/NAME/report.html. `--check` writes nothing and fails where the page is not that of the records.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from jinja2 import Environment, StrictUndefined
from timing import machine

from exporter.files import whole_file, write_json
from exporter.pipeline import REPORT

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/results.md"
TEMPLATE = Path(__file__).with_name("results.md.jinja")
STUDY = "study.json"
BESIDE = ("seeds", "images_to_measure_on", "short_training", "masked_training")  # records of other scripts


def recorded(run: Path, name: str) -> dict[str, Any]:
    """All that the report rests on, without the lists of images."""
    told: dict[str, Any] = json.loads((run / REPORT).with_name("report.json").read_text("utf-8"))
    if told["comparison"] is not None:
        told["comparison"] = {key: value for key, value in told["comparison"].items() if key != "rows"} | {
            "images": told["comparison"]["rows"][0]["images"]
        }
    if told["subsets"] is not None:
        told["subsets"].pop("rows")
    training = told["training"]
    told["training"] = {key: training[key] for key in ("images", "initial_weights", "recipe")}
    if told["pruning"] is not None:
        del told["pruning"]["layers"]
    return {"name": name, **told, "machine": machine()}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def page() -> str:
    """docs/results.md, from every record there is."""
    paths = sorted(ROOT.glob(f"results/*/{STUDY}"))
    studies = [_read(path) | {name: _read(path.with_name(f"{name}.json")) for name in BESIDE} for path in paths]
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(studies=studies)


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
        shutil.copyfile(run / REPORT, ROOT / "results" / name / "report.html")
    with whole_file(PAGE) as temporary:
        temporary.write_text(page(), "utf-8")


if __name__ == "__main__":
    typer.run(main)
