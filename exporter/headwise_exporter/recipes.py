"""What a build does for each data set: typed settings, every one of which the command line can change (`overrides`).

A recipe is a function whose docstring states its result, split, hardware, time, command and number of runs, or "not
run yet". `exporter recipes` lists them; `--set training.epochs=5` changes one setting.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from headwise_exporter.data.augmentation import AugmentationSettings
from headwise_exporter.errors import ExporterError
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.model.config import CCTConfig, cct
from headwise_exporter.nodes.findings import FindingsSettings
from headwise_exporter.nodes.snp import ProbeSettings
from headwise_exporter.pruning.settings import PruneSettings, SearchSettings
from headwise_exporter.training.distillation import TeachingSettings
from headwise_exporter.training.settings import TrainingSettings


class RecipeError(ExporterError):
    """There is no such recipe, or it cannot be read."""


@dataclass(frozen=True)
class ModelSettings:
    """A dense CCT, but for what the data set decides: image size, channels and labels."""

    depth: int  # encoders
    heads: int
    width: int  # of the residual stream
    feed_forward: int  # hidden nodes
    conv_hidden_channels: tuple[int, ...] = ()  # of the tokenizer's layers before the last
    conv_kernel: int = 3
    conv_stride: int = 1
    conv_padding: int = 1
    attention_dropout: float = 0.1
    stochastic_depth: float = 0.1

    def config(self, image_size: int, channels: int, labels: int) -> CCTConfig:
        """The model's configuration for images of that size (pixels a side)."""
        return cct(
            image_size=image_size,
            channels=channels,
            labels=labels,
            depth=self.depth,
            heads=self.heads,
            width=self.width,
            feed_forward=self.feed_forward,
            conv_hidden_channels=self.conv_hidden_channels,
            conv_kernel=self.conv_kernel,
            conv_stride=self.conv_stride,
            conv_padding=self.conv_padding,
        )


@dataclass(frozen=True)
class Recipe:
    """From data set to bundle."""

    dataset: str  # kind: digits, cifar100, flowers102 or folder
    model: ModelSettings
    training: TrainingSettings
    image_size: int | None = None  # pixels a side; the data set's own by default
    protocol: str | None = None  # how the data set is divided into its splits; its first by default
    start: str | None = None  # weights that training starts from where none are asked for, if they fit
    teaching: TeachingSettings = field(default_factory=TeachingSettings)  # where there is a teacher (--teacher)
    probes: ProbeSettings = field(default_factory=ProbeSettings)
    findings: FindingsSettings = field(default_factory=FindingsSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    quantize: QuantizationSettings = field(default_factory=QuantizationSettings)


# The reference's augmentation for photos, arXiv:2104.05704: RandAugment m9, mixup 0.8, cutmix 1.0, random erasing 0.25.
PHOTOS = AugmentationSettings(
    crop_area_min=0.6,
    flip=0.5,
    fill="mean",
    rand_augment_operations=2,
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
)
# Trainings this short see few images: mixing and erasing keep them from being learnt.
LIGHT = AugmentationSettings(crop_area_min=0.6, flip=0.5, fill="mean")


def digits() -> Recipe:
    """99.17 % (97.58-99.72) on 360 test images; stratified 60/20/20; 2 CPU cores, 0.6 minutes; n = 1.

    `exporter build --dataset digits`, of which the minutes are the training. 8 x 8 scans, 16 tokens. No mirroring: a
    mirrored digit is another sign.
    """
    return Recipe(
        dataset="digits",
        model=ModelSettings(depth=3, heads=4, width=128, feed_forward=256),
        training=TrainingSettings(
            epochs=60, augmentation=AugmentationSettings(rotation_degrees=12.0, scaling=0.1, shift=0.1)
        ),
        # One of the best criteria, and few rounds: every criterion would be too much for a demonstration.
        prune=PruneSettings(criterion="taylor", search=SearchSettings(rounds=5, images=200)),
    )


def cct_7_3x1() -> Recipe:
    """Not run yet. CCT-7/3x1 on CIFAR-100, 300 epochs, the reference's recipe (published: 80.92 %, on 50,000 images).

    `exporter build --dataset cifar100 --recipe cct_7_3x1`, on a GPU. Rehearsed on 2 CPU cores in float32 for two epochs
    of 2,000 of the images: loss 4.61, then 4.58, 3.2 % of 500 validation images; 6 images a second.
    """
    return Recipe(
        dataset="cifar100",
        model=ModelSettings(depth=7, heads=4, width=256, feed_forward=512),
        training=TrainingSettings(
            epochs=300,
            batch_size=128,
            learning_rate=6e-4,
            warm_up_epochs=10,
            bf16=True,
            augmentation=PHOTOS,
        ),
        probes=ProbeSettings(epochs=10),
        prune=PruneSettings(epochs=10),
    )


def cct_7_7x2() -> Recipe:
    """Not run yet. CCT-7/7x2 on Flowers-102 at 224 px, official split, 300 epochs.

    `exporter build --dataset flowers102 --recipe cct_7_7x2`, on a GPU. Rehearsed on 2 CPU cores for two epochs
    (`--epochs 2 --set training.warm_up_epochs=1 --set training.bf16=false`): loss 4.69, then 4.60, 3.3 % of 1,020
    validation images; 11 images a second, 5 minutes.
    """
    return Recipe(
        dataset="flowers102",
        image_size=224,
        model=ModelSettings(
            depth=7,
            heads=4,
            width=256,
            feed_forward=512,
            conv_hidden_channels=(64,),
            conv_kernel=7,
            conv_stride=2,
            conv_padding=3,
        ),
        training=TrainingSettings(
            epochs=300,
            batch_size=64,
            learning_rate=6e-4,
            warm_up_epochs=10,
            bf16=True,
            augmentation=replace(PHOTOS, crop_area_min=0.2),
        ),
        prune=PruneSettings(epochs=10),
    )


def cifar100_cpu() -> Recipe:
    """65.89 % (64.95-66.81) on 10,000 test images; 45,000 for training; 2 CPU cores, 56 minutes; n = 1.

    `exporter build --dataset cifar100 --recipe cifar100_cpu`. The minutes are those of the steps; 59 with the
    evaluations in between, on cores that tests ran on now and then.
    """
    return Recipe(
        dataset="cifar100",
        model=ModelSettings(
            depth=4,
            heads=4,
            width=192,
            feed_forward=384,
            conv_hidden_channels=(64, 128),  # 16 tokens
            attention_dropout=0.0,
            stochastic_depth=0.0,
        ),
        training=TrainingSettings(
            epochs=22,
            batch_size=256,
            optimizer="muon",
            learning_rate=3e-3,
            warm_up_epochs=1,
            average_decay=0.998,
            weight_decay=1.0,  # in few steps: with 0.06 the training images were learnt by heart
            augmentation=LIGHT,
        ),
        probes=ProbeSettings(epochs=3),
        # Literal ANDC is reported, and units go by one of the best criteria: each other choice of masks and each other
        # criterion would take ten minutes of its own.
        prune=PruneSettings(epochs=4, layers="both", mask_by="andc", criterion="taylor"),
    )


def cifar100_taught() -> Recipe:
    """Not run yet. cifar100_cpu's weights go on, learning from a teacher's logits alone.

    `python experiments/teachers.py cifar100 teachers/cifar100.onnx`, then `exporter build --dataset cifar100 --recipe
    cifar100_taught --teacher teachers/cifar100.onnx`. The teacher reached 74.76 % of the 5,000 validation images.
    """
    plain = cifar100_cpu()
    training = replace(plain.training, epochs=20, learning_rate=2e-3, weight_decay=0.5)
    return replace(
        plain, training=training, start="checkpoint:cifar100", teaching=TeachingSettings(temperature=2.0, views=10)
    )


def flowers102_cpu() -> Recipe:
    """75.95 % (74.86-77.00) on 6,149 test images; official-trainval; 2 CPU cores, 50 minutes; n = 1.

    `exporter build --dataset flowers102 --recipe flowers102_cpu`. 64 px, 1,836 training images. The minutes are those
    of the steps; 52 with the evaluations in between, on cores that tests ran on now and then.
    """
    return Recipe(
        dataset="flowers102",
        image_size=64,
        protocol="official-trainval",
        model=ModelSettings(
            depth=4,
            heads=4,
            width=192,
            feed_forward=384,
            conv_hidden_channels=(32, 64, 128),  # 16 tokens
            attention_dropout=0.0,
            stochastic_depth=0.1,
        ),
        training=TrainingSettings(
            epochs=280,
            batch_size=128,
            optimizer="muon",
            learning_rate=2e-3,
            weight_decay=1.0,
            warm_up_epochs=5,
            average_decay=0.998,
            augmentation=replace(LIGHT, crop_area_min=0.3, rotation_degrees=15.0, mixup=0.8, cutmix=1.0),
        ),
        prune=PruneSettings(epochs=10),
    )


def flowers102_taught() -> Recipe:
    """78.71 % (77.67-79.72) on 6,149 test images; official-trainval; one of 2 busy CPU cores, 47 minutes; n = 1.

    `python experiments/teachers.py flowers102 teachers/flowers102.onnx`, then `exporter train --dataset flowers102
    --recipe flowers102_taught --teacher teachers/flowers102.onnx --run runs/flowers102_taught`. The weights of
    `flowers102_cpu` go on at 80 px (25 tokens), learning from the logits of a teacher that sees these views at 128 px;
    asking it took 15 minutes more. The accuracy is that of the mean of these weights and those it started from
    (`experiments/record_training.py --average checkpoint:flowers102`), which `checkpoint:flowers102_taught` has.

    On the 204 validation images: 78.9 % after the training, 80.4 % the mean, 79.4 % the weights it started from at
    80 px (76.76 % of the test images). 26 more epochs gave 78.9 % again, and their mean 81.4 % (test 78.57 %).
    """
    plain = flowers102_cpu()
    return replace(
        plain,
        image_size=80,
        model=replace(plain.model, stochastic_depth=0.0),  # views regularise
        training=replace(
            plain.training,
            epochs=48,
            learning_rate=1e-3,
            weight_decay=0.5,
            warm_up_epochs=2,
            average_decay=0.995,  # of the last 200 of 720 steps
        ),
        start="checkpoint:flowers102",
        teaching=TeachingSettings(temperature=2.0, views=24),
    )


def folder() -> Recipe:
    """Not measured: what it gives depends on your images. A small CCT at 64 px, for any folder of photos.

    It starts from the weights that `flowers102_cpu` gave; `--init none` starts from random ones. It stops early after
    70 epochs, a quarter of them all, without a better validation accuracy [our choice].
    """
    plain = flowers102_cpu()
    patient = replace(plain.training, patience_epochs=70)
    return replace(plain, dataset="folder", protocol=None, training=patient, start="checkpoint:flowers102")


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        digits,
        cct_7_3x1,
        cifar100_cpu,
        cifar100_taught,
        cct_7_7x2,
        flowers102_cpu,
        flowers102_taught,
        folder,
    )
}


@dataclass(frozen=True)
class Default:
    """Names of the recipes that a kind of data set is trained by where none is asked for."""

    cpu: str
    gpu: str


DEFAULTS = {
    "digits": Default(cpu="digits", gpu="digits"),
    "cifar100": Default(cpu="cifar100_cpu", gpu="cct_7_3x1"),
    "flowers102": Default(cpu="flowers102_cpu", gpu="cct_7_7x2"),
    "folder": Default(cpu="folder", gpu="folder"),
}


def find_recipe(kind: str, name: str | None = None, *, has_gpu: bool = False) -> tuple[str, Recipe]:
    """The recipe of that name; without one, the default of the data set on this machine.

    Raises:
        RecipeError: there is none of that name, it is for another data set, or the data set has no default.
    """
    fitting = {known: make() for known, make in RECIPES.items() if make().dataset == kind}
    if name is None and kind in DEFAULTS:
        name = DEFAULTS[kind].gpu if has_gpu else DEFAULTS[kind].cpu
    if name not in fitting:
        wanted = "none that is its default" if name is None else repr(name)
        raise RecipeError(f"expected a recipe for {kind} ({', '.join(fitting) or 'there is none'}), found {wanted}.")
    return name, fitting[name]


def describe(name: str) -> str:
    """The first paragraph of a recipe's docstring."""
    return " ".join((RECIPES[name].__doc__ or "").split("\n\n")[0].split())


def from_record(values: Any) -> Recipe:
    """The recipe that `dataclasses.asdict` took apart, as a run's record has it.

    Raises:
        RecipeError: it is of another release.
    """
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        raise RecipeError(
            f"the run was made by another release of headwise, whose recipe reads otherwise ({error.error_count()} "
            f"settings). Train again."
        ) from error
