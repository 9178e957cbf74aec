"""What the experiments share: the folder of their records, the arguments of their commands, and how one is written."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from headwise_exporter.files import write_json
from headwise_exporter.machine import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
TRAINING, STUDY, TEACHER = "training.json", "study.json", "teacher.json"
# What this folder's other scripts record of a data set beside these.
SEEDS, IMAGES_TO_MEASURE_ON = "seeds.json", "images_to_measure_on.json"
FINE_TUNING, MASKED_TRAINING, RECOVERY = "fine_tuning.json", "masked_training.json", "recovery.json"
SPECIALISE, DELETION = "specialise.json", "deletion.json"

RunArgument = Annotated[Path, typer.Argument(help="Folder of a trained run.")]
MeasuredRunArgument = Annotated[Path, typer.Argument(help="Folder of a measured run.")]
NameArgument = Annotated[str, typer.Argument(help="Of the folder under results/.")]
ResultsOption = Annotated[Path, typer.Option(help="Folder of all records; another than results/ for a trial.")]


def write_record(path: Path, record: dict[str, Any]) -> None:
    """A record, with the machine that it was made on."""
    write_json(path, {**record, "machine": machine()})


def read_record(path: Path) -> dict[str, Any]:
    """A record; empty where there is none."""
    record: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return record
