"""Time of the whole augmentation over that of a training step, in one run, and of kornia's nearest equivalent.

The augmentation is the published CIFAR-100 recipe's (`RECIPE`); a step is forward, backward, clipping and AdamW on
inputs like its own, without the augmentation itself. Times are the process's CPU time on one thread, so that what
else the machine does hardly counts, and rounds are interleaved (ours, kornia, step, ...); figures are medians over the
rounds, of the ratio with its quartiles. bf16 is autocast, in the step alone; it is left out where it would be emulated.

kornia is compared where it is installed. Its RandAugment draws one list of operations for the whole batch; only image
by image does each have its own, and that is the second comparison. Both leave out mixup and cutmix.

    python benchmarks/augmentation_cost.py [--rounds 7] [--case cct_7_3x1] [--batch 16] [--json]
"""

import importlib.util
import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer
from headwise_exporter.bench.sessions import processor_has_bf16
from headwise_exporter.data.augmentation import AugmentationSettings, prepare, to_unit
from headwise_exporter.machine import machine
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig, cct, cct_7_3x1, cct_7_7x2
from rich.console import Console
from rich.table import Table
from timing import quartiles
from torch import Tensor, nn
from torch.nn import functional

RECIPE = AugmentationSettings(
    crop_area_min=0.8, flip=0.5, fill="mean", rand_augment_operations=2, erasing=0.25, mixup=0.8, cutmix=1.0
)
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
CASES: dict[str, tuple[CCTConfig, int]] = {  # with images in a batch
    "cct_7_3x1": (cct_7_3x1(), 128),
    "cct_4x128": (cct(image_size=32, channels=3, labels=100, depth=4, heads=4, width=128, feed_forward=256), 128),
    "cct_7_7x2": (cct_7_7x2(), 32),
}


def ours(config: CCTConfig) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The whole chain of `data.augmentation`: uint8 images (B, Y, X, C) to inputs and targets."""

    def run(images_BYXC: Tensor) -> tuple[Tensor, Tensor]:
        labels_B = torch.arange(len(images_BYXC)) % config.labels
        return prepare(images_BYXC, labels_B, RECIPE, mean=MEAN, std=STD, labels=config.labels, smoothing=0.1)

    return run


def kornia_chain(size: int) -> nn.Module:
    """kornia's nearest equivalent up to erasing: m9 of 10 is 27 of its 30."""
    import kornia.augmentation as kornia
    from kornia.augmentation.auto import RandAugment

    return nn.Sequential(
        kornia.RandomResizedCrop((size, size), scale=(0.8, 1.0), ratio=(3 / 4, 4 / 3)),
        kornia.RandomHorizontalFlip(0.5),
        RandAugment(n=2, m=27),
        kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        kornia.RandomErasing(scale=(0.02, 1 / 3), ratio=(0.3, 10 / 3), p=0.25),
    )


def kornia_runs(size: int) -> dict[str, Callable[[Tensor], Any]]:
    """For the whole batch, and image by image; nothing where kornia is not installed."""
    if importlib.util.find_spec("kornia") is None:
        return {}
    chain = kornia_chain(size)
    return {
        "kornia": lambda images_BYXC: chain(to_unit(images_BYXC)),
        "kornia_by_image": lambda images_BYXC: [chain(image) for image in to_unit(images_BYXC).split(1)],
    }


def training_step(config: CCTConfig, bf16: bool, batch: int) -> Callable[[Tensor], None]:
    """Forward, backward, clipping and AdamW as in `training.loop`, always on the same inputs."""
    model = CCT(config, attention_dropout=0.1, stochastic_depth=0.1).train()
    optimizer = torch.optim.AdamW(model.parameters())
    inputs_BCYX = torch.randn(batch, config.channels, config.image_size, config.image_size)
    targets_BK = torch.rand(batch, config.labels).softmax(1)

    def step(_: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits_BK, _ = model(inputs_BCYX)
        loss = functional.cross_entropy(logits_BK.float(), targets_BK)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def precisions() -> tuple[str, ...]:
    """Those that this processor computes in."""
    return ("f32", "bf16") if processor_has_bf16() else ("f32",)


def seconds(run: Callable[[Tensor], Any], images_BYXC: Tensor) -> float:
    """CPU time of one call."""
    started = time.process_time()
    run(images_BYXC)
    return time.process_time() - started


def measure(name: str, batch: int | None, rounds: int) -> dict[str, Any]:
    """One case: medians in milliseconds, and our augmentation's share of a step in float32 and bf16."""
    config, usual_batch = CASES[name]
    batch = batch or usual_batch
    torch.manual_seed(0)
    images_BYXC = torch.randint(256, (batch, config.image_size, config.image_size, 3), dtype=torch.uint8)
    steps = {f"step_{kind}": training_step(config, kind == "bf16", batch) for kind in precisions()}
    named = {"ours": ours(config), **kornia_runs(config.image_size), **steps}
    # One round to warm up: a step takes seconds.
    times = np.array([[seconds(run, images_BYXC) for run in named.values()] for _ in range(1 + rounds)])[1:]
    of = dict(zip(named, times.T, strict=True))
    medians = {f"{key}_ms": 1e3 * float(np.median(taken)) for key, taken in of.items()}
    shares = {kind: quartiles(of["ours"] / of[f"step_{kind}"]) for kind in precisions()}
    return {"case": name, "pixels": config.image_size, "batch": batch, **medians, "shares": shares}


def show_percent(share: dict[str, float]) -> str:
    """Median and quartiles of a share, in percent."""
    low, median, high = (100 * share[key] for key in ("ratio_quartile_low", "ratio", "ratio_quartile_high"))
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def report(rows: list[dict[str, Any]], title: str) -> Table:
    """A row for each case and each of its times."""
    table = Table(title=title)
    shares = [f"% of {kind} step (quartiles)" for kind in precisions()]
    for column in ("case", "what", "ms", *shares):
        table.add_column(column, justify="left" if column in ("case", "what") else "right")
    for row in rows:
        for key in (key.removesuffix("_ms") for key in row if key.endswith("_ms")):
            ours_alone = [show_percent(share) if key == "ours" else "" for share in row["shares"].values()]
            case = f"{row['case']}, {row['pixels']} px, batch {row['batch']}" if key == "ours" else ""
            table.add_row(case, key.replace("_", " "), f"{row[f'{key}_ms']:,.1f}", *ours_alone)
    return table


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 7,
    case: Annotated[list[str] | None, typer.Option(help=f"May be repeated: {', '.join(CASES)}.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images in a batch; each case's own by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    names = case or list(CASES)
    if unknown := set(names) - set(CASES):
        raise typer.BadParameter(f"expected cases of {', '.join(CASES)}, found {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    rows = [measure(name, batch, rounds) for name in names]
    if as_json:
        print(json.dumps({"machine": machine(), "rounds": rounds, "rows": rows}, indent=2))
        return
    Console().print(report(rows, f"Augmentation, {rounds} interleaved rounds, CPU time on one thread, median"))


if __name__ == "__main__":
    typer.run(main)
