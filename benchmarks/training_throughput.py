"""Images a second of a training step of ours over those of a plain torch loop, in one run.

Ours is `training.loop.train` as the recipe has it: channels innermost, averaged weights, Muon by the stack, bf16
autocast where the processor computes in it. Plain is what a reader of torch's manual writes: the same model, the same
augmentation, float32, contiguous, `torch.optim.AdamW`, with `torch.optim.Muon` on the encoders' matrices where ours
has it. Both step in turn on batches of the same size, so that a slow moment meets both; figures are medians, the ratio
with its quartiles. The share of augmentation is that of our step. The rate of our arithmetic (forward and backward,
6 operations for each multiply-accumulate of the model) is set against that of a large matrix product in the precision
of the step, measured in the same run.

    python benchmarks/training_throughput.py [--rounds 10] [--threads 2] [--recipe cifar100_cpu] [--batch 16] [--json]
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from headwise.cores import usable_cores
from headwise_exporter.bench.sessions import processor_has_bf16
from headwise_exporter.data.augmentation import prepare
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.machine import machine
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import count_macs
from headwise_exporter.recipes import RECIPES, Recipe
from headwise_exporter.training.loop import Step, train
from headwise_exporter.training.optimizers import OptimizerName, parameter_groups
from headwise_exporter.training.settings import TrainingSettings
from models import NORMALISATION, TIMED, model_config
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from timing import quartiles, show_quartiles
from torch import Tensor, nn
from torch.nn import functional

WARM_UP_ROUNDS = 2
MATRIX_SIDE = 2048
# Recipes that are timed where none is asked for, and the batch where their own would take minutes on a CPU.
DEFAULT_BATCHES = {"cifar100_cpu": None, "flowers102_cpu": None, "cct_7_3x1": 16, "cct_7_7x2": 16}
OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw", "muon")


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def computes_in_bf16() -> bool:
    """Whether the device does, rather than emulate it."""
    return device().type == "cuda" or processor_has_bf16()


def make_model(recipe: Recipe) -> CCT:
    """The recipe's model, freshly initialised."""
    torch.manual_seed(0)
    dropout = {name: getattr(recipe.model, name) for name in ("attention_dropout", "stochastic_depth")}
    return CCT(model_config(recipe), **dropout).to(device())


def random_images(recipe: Recipe) -> LabelledImages:
    """One batch of random pixels."""
    config, size = model_config(recipe), recipe.training.batch_size
    images = torch.randint(256, (size, config.image_size, config.image_size, config.channels), dtype=torch.uint8)
    mean, std = ((value,) * config.channels for value in NORMALISATION)
    return LabelledImages(images, torch.arange(size) % config.labels, mean, std).to(device())


def plain_optimizers(model: CCT, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """torch's own, as its manual has them."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        return [torch.optim.AdamW(parameter_groups(list(model.parameters()), decay), rate)]
    blocks = model.classifier.blocks
    matrices = [parameter for parameter in blocks.parameters() if parameter.ndim == 2]
    inside = set(map(id, matrices))
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    muon = torch.optim.Muon(matrices, rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(parameter_groups(rest, decay), rate)]


def augmentation(model: CCT, data: LabelledImages, settings: TrainingSettings) -> Callable[[], tuple[Tensor, Tensor]]:
    """What makes one batch of images and targets."""

    def run() -> tuple[Tensor, Tensor]:
        return prepare(
            data.pixels(slice(None)),
            data.labels_N,
            settings.augmentation,
            mean=data.mean,
            std=data.std,
            labels=model.config.labels,
            smoothing=settings.label_smoothing,
        )

    return run


def plain_step(
    model: CCT, batch: Callable[[], tuple[Tensor, Tensor]], settings: TrainingSettings
) -> Callable[[], None]:
    """One step in float32, with optimisers that are made once."""
    optimizers = plain_optimizers(model, settings)

    def step() -> None:
        model.train()
        images_BCYX, targets_BK = batch()
        loss = functional.cross_entropy(model(images_BCYX)[0], targets_BK)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        for optimizer in optimizers:
            optimizer.step()

    return step


def interleaved(recipe: Recipe, data: LabelledImages, model: CCT, plain: CCT, rounds: int) -> NDArray[np.float64]:
    """Seconds (rounds, 3) of a step of ours, a plain step and an augmentation, in turn."""
    settings = replace(recipe.training, epochs=WARM_UP_ROUNDS + rounds, warm_up_epochs=0)  # a batch is an epoch
    batch = augmentation(model, data, settings)
    others = (plain_step(plain, batch, settings), batch)
    times: list[list[float]] = []
    started = 0.0

    def after_ours(step: Step) -> None:
        nonlocal started
        taken = [clock() - started]
        for run in others:
            before = clock()
            run()
            taken.append(clock() - before)
        times.append(taken)
        started = clock()

    started = clock()
    train(model, data, settings, on_step=after_ours)
    return np.array(times)[WARM_UP_ROUNDS:]


def matrix_rate(bf16: bool) -> float:
    """Operations a second of a large matrix product; the best of ten."""
    kind = torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=device(), dtype=kind) for _ in range(2))
    taken = []
    for _ in range(10):
        started = clock()
        a @ b
        taken.append(clock() - started)
    return float(2 * MATRIX_SIDE**3 / min(taken))


def measure(name: str, optimizer: OptimizerName, batch_size: int | None, rounds: int) -> dict[str, Any]:
    """A recipe with an optimiser."""
    recipe = RECIPES[name]()
    bf16, size = computes_in_bf16(), batch_size or recipe.training.batch_size
    recipe = replace(recipe, training=replace(recipe.training, optimizer=optimizer, bf16=bf16, batch_size=size))
    model, plain = make_model(recipe), make_model(recipe)
    times = interleaved(recipe, random_images(recipe), model, plain, rounds)
    ours, theirs, augmenting = np.median(times, axis=0)
    return {
        "recipe": name,
        "optimizer": optimizer,
        "batch": size,
        "precision": "bf16" if bf16 else "f32",
        "images_per_second": size / ours,
        "plain_images_per_second": size / theirs,
        **quartiles(times[:, 1] / times[:, 0]),
        "augmentation_share": augmenting / ours,
        "matrix_rate_share": 6 * count_macs(model.config) * size / ours / matrix_rate(bf16),
    }


def report(rows: list[dict[str, Any]], title: str) -> Table:
    """A row for each recipe and optimiser."""
    table = Table(title=title)
    table.add_column("recipe, optimiser, batch", no_wrap=True)
    for column in ("images/s", "plain", "ratio (quartiles)", "augm. %", "matmul %"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['recipe']}, {row['optimizer']}, {row['batch']}",
            f"{row['images_per_second']:,.1f}",
            f"{row['plain_images_per_second']:,.1f}",
            show_quartiles(row),
            f"{100 * row['augmentation_share']:.2f}",
            f"{100 * row['matrix_rate_share']:.0f}",
        )
    return table


def batch_of(recipe: str, asked: int | None) -> int | None:
    """Images in a batch; None for the recipe's own."""
    return asked or (None if device().type == "cuda" else DEFAULT_BATCHES.get(recipe))


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = usable_cores(),
    recipe: Annotated[list[str] | None, typer.Option(help=f"May be repeated: {', '.join(TIMED)}.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in a batch; the recipe's, or few on a CPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    names = recipe or list(DEFAULT_BATCHES)
    if unknown := set(names) - set(TIMED):
        raise typer.BadParameter(f"expected recipes of {', '.join(TIMED)}, found {', '.join(sorted(unknown))}")
    torch.set_num_threads(threads)
    rows = [measure(name, optimizer, batch_of(name, batch), rounds) for name in names for optimizer in OPTIMIZERS]
    if as_json:
        print(json.dumps({"machine": machine(), "threads": threads, "rounds": rounds, "rows": rows}, indent=2))
        return
    Console().print(report(rows, f"A training step, {rounds} interleaved rounds, {threads} threads, median"))


if __name__ == "__main__":
    typer.run(main)
