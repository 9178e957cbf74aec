"""The options of the command `exporter`, each with its help. `commands.settings` says what they come to together.

Every setting of a recipe can be given as `--set NAME=VALUE`. The few that have an option of their own are listed in
`SHORTCUTS`; a `--set` of the same name wins.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from headwise_exporter.data import datasets
from headwise_exporter.model.shipped import PREFIX, RANDOM, shipped_checkpoints
from headwise_exporter.pruning.names import ANDC, AUTO, COMPARED, CRITERIA, LAYERS, MASK_BY, NONE

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
SHORTCUTS: Final = {
    "epochs": "training.epochs",
    "seed": "training.seed",
    "split": "findings.split",
    "layers": "prune.layers",
    "mask_by": "prune.mask_by",
    "criterion": "prune.criterion",
    "max_drop": "prune.max_drop_points",
    "speedup": "prune.search.speedup",
    "macs": "prune.search.macs",
    "int8_max_drop": "quantize.max_drop_points",
    "int8_images": "quantize.images",
}


def _checked_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(f"expected letters, digits, '.', '_' and '-', found {name!r}")
    return name


def _help(shortcut: str, text: str) -> str:
    return f"{text} As --set {SHORTCUTS[shortcut]}=VALUE."


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completes a value in the shell."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


DatasetOption = Annotated[
    str,
    typer.Option(
        "--dataset",
        help=f"One of: {', '.join(datasets.NAMES)}.",
        autocompletion=one_of(*(name.removesuffix("PATH") for name in datasets.NAMES)),
    ),
]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Where downloaded data lies or is put; a folder of the cache by default.")
]
ProtocolOption = Annotated[
    str | None, typer.Option(help="How the data set is divided into its splits; its first protocol by default.")
]
ImageSizeOption = Annotated[int | None, typer.Option(help="Pixels a side; the data set's own by default.")]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of the run's intermediate results.")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of the run.")]
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
    str | None,
    typer.Option(
        "--init",
        help=f"Weights to start from: a file, checkpoint:NAME, or {RANDOM}; the recipe's by default.",
        autocompletion=one_of(*(f"{PREFIX}{name}" for name in shipped_checkpoints()), RANDOM),
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="Classifier of the same labels to learn from: an ONNX graph, a run's dense.safetensors, or"
        " checkpoint:NAME. The labels alone by default.",
        autocompletion=one_of(*(f"{PREFIX}{name}" for name in shipped_checkpoints())),
    ),
]
TeacherSizeOption = Annotated[
    int | None, typer.Option(min=1, help="Pixels a side of the teacher's images, where its graph does not say.")
]
TeacherLayoutOption = Annotated[
    str | None, typer.Option(help="Axes of the teacher's images, where its graph does not say: nchw or nhwc.")
]
TeacherMeanOption = Annotated[
    str | None,
    typer.Option(help="What a teacher of float images subtracts from values in 0 to 1: 0.485,0.456,0.406, say."),
]
TeacherStdOption = Annotated[str | None, typer.Option(help="What it divides by then: 0.229,0.224,0.225, say.")]
EpochsOption = Annotated[
    int | None,
    typer.Option(min=0, help=_help("epochs", "Epochs of training; 0 takes the weights of --init as they are.")),
]
SeedOption = Annotated[int | None, typer.Option(min=0, help=_help("seed", "Seed of the training."))]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
PruneLayersOption = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help=_help("layers", f"Where masks go: {AUTO} (the best on validation), {', '.join(LAYERS)}."),
        autocompletion=one_of(AUTO, *LAYERS),
    ),
]
PruneMaskByOption = Annotated[
    str | None,
    typer.Option(
        "--mask-by",
        help=_help(
            "mask_by",
            f"What chooses the connections that masks keep: {AUTO} (the best on validation), {NONE} (no masks), "
            f"{', '.join(MASK_BY)}.",
        ),
        autocompletion=one_of(AUTO, NONE, *MASK_BY),
    ),
]
CriterionOption = Annotated[
    str | None,
    typer.Option(
        help=_help(
            "criterion", f"What ranks the units to remove: {AUTO} (the best on validation), {', '.join(CRITERIA)}."
        ),
        autocompletion=one_of(AUTO, *CRITERIA),
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help=_help("max_drop", "Points of validation accuracy that the pruned model may be below the dense one."),
    ),
]
SpeedupOption = Annotated[
    float | None,
    typer.Option(
        help=_help(
            "speedup", "How many times faster the pruned model is to be; as much as --max-drop allows by default."
        )
    ),
]
MacsOption = Annotated[
    float | None,
    typer.Option(help=_help("macs", "Share of the multiply-accumulates to keep, instead of a speed-up; 0 to 1.")),
]
Int8MaxDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        min=0,
        max=100,
        help=_help("int8_max_drop", "Points of validation accuracy that an int8 graph may be below the float32 one."),
    ),
]
Int8ImagesOption = Annotated[
    int | None,
    typer.Option(
        "--images", min=1, help=_help("int8_images", "Training images that ranges of activations are read from.")
    ),
]
ControlsOption = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Also measure two untrained models, and the trained one with exchanged labels, without which the report "
        "reaches no verdict on nodes and heads. Takes three more trainings of the probes.",
    ),
]
PicturesOption = Annotated[
    bool | None,
    typer.Option(
        "--pictures/--no-pictures",
        help="Small copies of validation images in the bundle: errors in its report, and images for which each head "
        "spoke. By default as last said of the run, and at first with them.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HalfOption = Annotated[
    bool, typer.Option("--fp16", help="Make a float16 graph as well, for GPUs. As --set quantize.half=true in a build.")
]
SharesOption = Annotated[
    list[float] | None,
    typer.Option(
        "--share", min=0.0, max=1.0, help="Kept of each layer's connections; may be repeated. Four by default."
    ),
]
CompareMaskByOption = Annotated[
    list[str] | None,
    typer.Option("--mask-by", help=f"May be repeated: {', '.join(COMPARED)}. All by default, and {ANDC} always."),
]
CompareLayersOption = Annotated[str, typer.Option("--layers", help=f"Where masks go: {', '.join(LAYERS)}.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Fine-tuning runs and random masks of each.")]
SubsetLabelsOption = Annotated[int, typer.Option("--labels", min=2, help="Labels of each subset.")]
SubsetsOption = Annotated[int, typer.Option("--subsets", min=1, help="Random subsets.")]
ChosenLabelsOption = Annotated[
    str | None, typer.Option("--labels", help="Labels of the run's data set, separated by commas.")
]
LabelsFileOption = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="The same in a file, a label a line; for any name.")
]
OtherOption = Annotated[bool, typer.Option("--other", help="One more output, for all other labels.")]
SpecialisedRunOption = Annotated[
    Path | None, typer.Option("--run", help="Folder of the new run; in RUN/specialised by default.")
]
MeasureSplitOption = Annotated[
    str | None, typer.Option("--split", help=_help("split", "Images to measure on: validation, test or train."))
]
SplitOption = Annotated[str, typer.Option(help="Of the data set: train, validation or test.")]
