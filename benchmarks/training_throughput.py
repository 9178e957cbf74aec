"""Images a second of a training step of ours over those of a plain torch loop, in one run.

Ours is `training.loop.train` as the recipe has it: channels innermost, averaged weights, Muon by the stack, bf16
autocast where the processor computes in it. Plain is what a reader of torch's manual writes: the same model, the same
augmentation, float32, contiguous, `torch.optim.AdamW`, with `torch.optim.Muon` on the encoders' matrices where ours
has it. Both step in turn on batches of the same size, so that a slow moment meets both; figures are medians, the ratio
with its quartiles. The share of augmentation is that of our step. The rate of our arithmetic (forward and backward,
6 operations for each multiply-accumulate of the model) is set against that of a large matrix product in the precision
of the step, measured in the same run.

    python benchmarks/training_throughput.py [--rounds 10] [--threads 2] [--recipe cifar100_cpu] [--json]
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import openvino
import torch
import typer
from headwise_exporter.data.augmentation import prepare
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT, count_macs
from headwise_exporter.recipes import RECIPES, Recipe
from headwise_exporter.training.loop import Step, TrainingSettings, train
from headwise_exporter.training.optimizers import parameter_groups
from rich.console import Console
from rich.table import Table
from timing import machine, quartiles, show_quartiles
from torch import Tensor, nn
from torch.nn import functional

WARM_UP_ROUNDS = 2
MATRIX_SIDE = 2048
DEFAULT_SIZES = {"digits": (8, 1, 10), "cifar100": (32, 3, 100), "flowers102": (64, 3, 102)}  # pixels, channels, labels


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
    cpu = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return device().type == "cuda" or cpu


def make_model(recipe: Recipe, side: int, channels: int, labels: int) -> CCT:
    """The recipe's model, freshly initialised."""
    torch.manual_seed(0)
    dropout = {name: getattr(recipe.model, name) for name in ("attention_dropout", "stochastic_depth")}
    return CCT(recipe.model.config(side, channels, labels), **dropout).to(device())


def plain_optimizers(model: CCT, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """torch's own, as its manual has them."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        return [torch.optim.AdamW(parameter_groups(list(model.parameters()), decay), rate)]
    matrices = [parameter for parameter in model.classifier.blocks.parameters() if parameter.ndim == 2]
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


def interleaved(recipe: Recipe, data: LabelledImages, model: CCT, plain: CCT, rounds: int) -> np.ndarray:
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


def measure(name: str, optimizer: str, batch_size: int | None, rounds: int) -> dict[str, Any]:
    """A recipe with an optimiser."""
    recipe = RECIPES[name]()
    bf16 = computes_in_bf16()
    training = replace(recipe.training, optimizer=optimizer, bf16=bf16)
    recipe = replace(recipe, training=replace(training, batch_size=batch_size or training.batch_size))
    side, channels, labels = DEFAULT_SIZES[recipe.dataset]
    side, size = recipe.image_size or side, recipe.training.batch_size
    images = torch.randint(256, (size, side, side, channels), dtype=torch.uint8)
    data = LabelledImages(images, torch.arange(size) % labels, (0.5,) * channels, (0.25,) * channels).to(device())
    model, plain = (make_model(recipe, side, channels, labels) for _ in range(2))
    times = interleaved(recipe, data, model, plain, rounds)
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


def cases() -> list[tuple[str, str, int | None]]:
    """Recipe, optimiser, and the batch where the recipe's own would take minutes on a CPU."""
    large = None if device().type == "cuda" else 16
    batches = {"cifar100_cpu": None, "flowers102_cpu": None, "cct_7_3x1": large, "cct_7_7x2": large}
    return [(name, optimizer, batch) for name, batch in batches.items() for optimizer in ("adamw", "muon")]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = len(os.sched_getaffinity(0)),
    recipe: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    rows = [measure(*case, rounds) for case in cases() if recipe is None or case[0] in recipe]
    if as_json:
        print(json.dumps({"machine": machine(), "threads": threads, "rounds": rounds, "rows": rows}, indent=2))
        return
    Console().print(report(rows, f"A training step, {rounds} interleaved rounds, {threads} threads, median"))


if __name__ == "__main__":
    typer.run(main)
