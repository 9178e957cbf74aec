"""The options of the command `exporter`, each with its help; several commands share one."""

import re
from pathlib import Path
from typing import Annotated

import typer

from exporter import datasets
from exporter.andc import RULES
from exporter.criteria import CRITERIA
from exporter.pruning import AUTO

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def _checked_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(f"expected letters, digits, '.', '_' and '-', found {name!r}")
    return name


DatasetOption = Annotated[str, typer.Option("--dataset", help=f"One of: {', '.join(datasets.NAMES)}.")]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Where downloaded data lies or is put; a folder of the cache by default.")
]
SplitOption = Annotated[str | None, typer.Option(help="One of the data set's splits; its first by default.")]
ImageSizeOption = Annotated[int | None, typer.Option(help="Pixels a side; the data set's own by default.")]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of the run's intermediate results.")]
OutOption = Annotated[Path, typer.Option("--out", help="Model repository to write the bundle to.")]
NameOption = Annotated[
    str | None,
    typer.Option("--name", callback=_checked_name, help="Name of the model; the data set's by default."),
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="See `exporter recipes`; the data set's by default.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE: another setting than the recipe's; may be repeated.")
]
InitOption = Annotated[
    str | None, typer.Option("--init", help="Weights to start from: .safetensors, .pth or checkpoint:NAME.")
]
EpochsOption = Annotated[
    int | None, typer.Option(min=0, help="As --set training.epochs=N; 0 takes the weights of --init as they are.")
]
SeedOption = Annotated[int | None, typer.Option(min=0, help="As --set training.seed=N.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
RuleOption = Annotated[str | None, typer.Option(help=f"ANDC rule: {', '.join(RULES)}.")]
ThresholdOption = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="At which a field counts as recognition.")
]
CriterionOption = Annotated[
    str | None,
    typer.Option(help=f"What chooses the units to remove: {AUTO} (the best on calibration), {', '.join(CRITERIA)}."),
]
ShareOption = Annotated[
    float | None, typer.Option(min=0.01, max=1.0, help="Share that each encoder keeps; the recipe's by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PartOption = Annotated[str, typer.Option(help="Of the data set: train, calibration or test.")]
