"""Do maps of where heads looked point at what matters? Patches are removed in the order of each map, and of others.

    exporter train --dataset cifar100 --init checkpoint:cifar100 --epochs 0 --run runs/cifar100
    python experiments/deletion.py runs/cifar100 cifar100

On validation images. Methods are in `token_scores.py`, and what is removed and measured is in `deletion_curves.py`:
the fall of the predicted label with 3 of 16 patches removed, the area under the fall over all shares of the patches,
and the area under the rise when they are put back into an empty image. Each method is compared with two baselines that
know no model, patches at the centre of the photo first and patches in random order, image by image (`paired_means.py`);
both, having equal scores, are the mean of several orders. Seconds are processor time of one thread.

The methods of others are Captum's; recorded with 0.9.0. Writes results/NAME/deletion.json and .svg; `record_study.py`
puts them into docs/results.md.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from deletion_curves import (
    BLURRED,
    CENTRED,
    LOGIT,
    MEAN,
    MEASURES,
    SHARES,
    TILES,
    area,
    curves_of_image,
    filling,
    logits_without,
    patch_of_pixel,
    ranks,
    steps,
)
from headwise_exporter.commands import console
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.images import LabelledImages, split_images
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.stages.run import DENSE, trained_dataset
from headwise_exporter.studies.wording import p_value
from numpy.typing import NDArray
from paired_means import RESAMPLES, holm_adjusted, mean_interval, p_value_of_zero
from records import DELETION, RESULTS, NameArgument, ResultsOption, RunArgument, write_record
from rich import box
from rich.table import Table
from token_scores import (
    ALL_HEADS,
    ALL_PARTS,
    CENTRE,
    GRAD_CAM,
    INTEGRATED_GRADIENTS,
    METHODS,
    OCCLUSION,
    RANDOM,
    REVERSED,
    ROLLOUT,
    SOURCES,
    Images,
    in_patches,
    nearness,
    occlusion,
    passes,
)
from torch import Tensor

PLOT = "deletion.svg"
BASELINES = {"to_centre": CENTRE, "to_random": RANDOM}
# Ways to remove a patch; of all but the first only the fall of the logit is recorded, of fewer images.
CONDITIONS = ((TILES, MEAN), (TILES, BLURRED), (CENTRED, MEAN))
FALL, DELETION_AREA, INSERTION_AREA = "fall", "deletion_area", "insertion_area"
EARLY = SHARES.index(3 / 16)
ORDERS = 3  # of methods with equal scores
BATCH = 32
DRAWN = (OCCLUSION, ALL_PARTS, ALL_HEADS, REVERSED, ROLLOUT, GRAD_CAM, INTEGRATED_GRADIENTS, CENTRE, RANDOM)
Seconds = dict[str, float]


def batch(data: LabelledImages, labels_N: Tensor, first: int) -> tuple[slice, Images]:
    """Images from one on, and where they are."""
    chosen = slice(first, first + BATCH)
    return chosen, Images(data.pixels(chosen), data.normalised(chosen), labels_N[chosen], data.mean, data.std)


def predicted(model: CCT, data: LabelledImages) -> Tensor:
    """The label with the largest logit (N,)."""
    with torch.no_grad():
        return torch.cat([model(images_BCYX)[0].argmax(1) for images_BCYX, _ in data.batches()])


def scores_of(
    model: CCT, data: LabelledImages, labels_N: Tensor, advance: Callable[[int], None]
) -> tuple[dict[str, Tensor], Seconds]:
    """Scores of all methods that need no patches, of tokens (N, T) or pixels (N, Y, X), and their seconds an image."""
    parts: dict[str, list[Tensor]] = {}
    seconds: Seconds = {}
    for first in range(0, len(data), BATCH):
        _, images = batch(data, labels_N, first)
        for source in SOURCES:
            start = time.process_time()
            scores = source(model, images)
            elapsed = time.process_time() - start
            for name, scored in scores.items():
                parts.setdefault(name, []).append(scored)
                seconds[name] = seconds.get(name, 0.0) + elapsed / len(data)
        advance(len(images.labels_B))
    return {name: torch.cat(scored) for name, scored in parts.items()}, seconds


@dataclass(frozen=True)
class Curves:
    """One measure of the predicted label, all methods in the order of `METHODS`."""

    fall_NMS: NDArray[np.float64]  # with so many patches removed
    rise_NMS: NDArray[np.float64] | None  # with so many patches put back, where that was measured
    whole_N: NDArray[np.float64]  # fall with all patches removed

    def quantities(self) -> dict[str, NDArray[np.float64]]:
        """What methods are compared by, larger is better (M, N)."""
        curves = {DELETION_AREA: self.fall_NMS, INSERTION_AREA: self.rise_NMS}
        areas = {
            name: area(curve_NMS, self.whole_N, SHARES).T for name, curve_NMS in curves.items() if curve_NMS is not None
        }
        return {FALL: self.fall_NMS[:, :, EARLY].T, **areas}


def method_ranks(
    scores: Mapping[str, Tensor], near_T: Tensor, orders: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Orders of the patches of one image by every method (O, T); of the baselines, and nowhere else, several."""
    several = {CENTRE: near_T.expand(orders, -1), RANDOM: torch.zeros(orders, len(near_T))}
    of_methods = {name: scores_T.unsqueeze(0) for name, scores_T in scores.items()} | several
    return {method: ranks(of_methods[method], generator) for method in METHODS}


def curves_of(
    model: CCT,
    data: LabelledImages,
    labels_N: Tensor,
    scores: Mapping[str, Tensor],
    condition: tuple[str, str],
    orders: int,
    advance: Callable[[int], None],
) -> tuple[dict[str, Curves], float]:
    """Of each measure under one condition; and the seconds an image that occlusion takes."""
    (patches, fill), put_back = condition, condition == CONDITIONS[0]
    patch_YX = patch_of_pixel(model.config, patches)
    near_T, of_images, seconds = nearness(patch_YX), [], 0.0
    for first in range(0, len(data), BATCH):
        chosen, images = batch(data, labels_N, first)
        fill_BCYX = filling(images.normalised_BCYX, fill, model.config.token_grid.stride_pixels)
        start = time.process_time()
        scores_B = {OCCLUSION: occlusion(model, images, patch_YX, fill_BCYX)}
        seconds += time.process_time() - start
        scores_B |= {name: in_patches(of_all[chosen], patch_YX) for name, of_all in scores.items()}
        for index, label in enumerate(images.labels_B.tolist()):
            scored = {name: of_images_BT[index] for name, of_images_BT in scores_B.items()}
            rank = method_ranks(scored, near_T, orders, torch.Generator().manual_seed(first + index))
            logits = partial(logits_without, model, images.normalised_BCYX[index], fill_BCYX[index], patch_YX)
            of_images.append(curves_of_image(logits, rank, label, put_back))
            advance(1)

    def stacked(measure: str, name: str) -> NDArray[np.float64]:
        return np.array([of_image[measure][name] for of_image in of_images])

    of_measures = {
        measure: Curves(
            stacked(measure, "fall_NMS"),
            stacked(measure, "rise_NMS") if put_back else None,
            stacked(measure, "whole_N"),
        )
        for measure in MEASURES
    }
    return of_measures, seconds / len(data)


def estimate(values_N: NDArray[np.float64]) -> dict[str, float]:
    """The mean with its interval."""
    low, high = mean_interval(values_N)
    return {"mean": float(values_N.mean()), "low": low, "high": high}


def compared(quantity_MN: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Of each method the mean, and the paired differences to the baselines, p-values adjusted over all of these."""
    pairs = [
        (row, to, METHODS.index(baseline))
        for row, method in enumerate(METHODS)
        for to, baseline in BASELINES.items()
        if method != baseline
    ]
    differences = {(row, to): quantity_MN[row] - quantity_MN[other] for row, to, other in pairs}
    adjusted = holm_adjusted([p_value_of_zero(difference_N) for difference_N in differences.values()])
    rows: list[dict[str, Any]] = [estimate(values_N) for values_N in quantity_MN]
    for (row, to), difference_N, p in zip(differences, differences.values(), adjusted, strict=True):
        rows[row][to] = estimate(difference_N) | {"p_value": p}
    return rows


def rows_of(curves: Curves) -> list[dict[str, Any]]:
    """A row for each method."""
    quantities = {name: compared(quantity_MN) for name, quantity_MN in curves.quantities().items()}
    return [
        {
            "method": method,
            "falls": curves.fall_NMS[:, index].mean(0).tolist(),
            **({} if curves.rise_NMS is None else {"rises": curves.rise_NMS[:, index].mean(0).tolist()}),
            **{name: rows[index] for name, rows in quantities.items()},
        }
        for index, method in enumerate(METHODS)
    ]


def measure(model: CCT, data: LabelledImages, fewer: int, orders: int) -> dict[str, Any]:
    """The whole record, but for the machine; the first condition on all images, others on the first few."""
    labels_N, tokens = predicted(model, data), model.config.tokens
    with console.progress("explain", len(data), "images") as advance:
        scores, seconds = scores_of(model, data, labels_N, advance)
    tables = []
    for condition in CONDITIONS if fewer else CONDITIONS[:1]:
        some = data if condition == CONDITIONS[0] else data.chosen(torch.arange(min(fewer, len(data))))
        with console.progress(f"remove {' '.join(condition)}", len(some), "images") as advance:
            of_measures, took = curves_of(model, some, labels_N[: len(some)], scores, condition, orders, advance)
        seconds.setdefault(OCCLUSION, took)
        for name in MEASURES if condition == CONDITIONS[0] else (LOGIT,):
            curves = of_measures[name]
            whole = float(curves.whole_N.mean())
            patches, fill = condition
            about = {"patches": patches, "fill": fill, "measure": name, "images": len(some), "whole": whole}
            tables.append(about | {"rows": rows_of(curves)})
    costs = [
        dict(zip(("method", "forward", "backward"), (method, *passes(method, tokens)), strict=True))
        | {"seconds": seconds.get(method, 0.0)}
        for method in METHODS
    ]
    return {
        "split": "validation",
        "images": len(data),
        "fewer_images": min(fewer, len(data)),
        "accuracy": float((labels_N == data.labels_N).double().mean()),
        "image_size": model.config.image_size,
        "tokens_a_side": model.config.map_sides[-1],
        "stride_pixels": model.config.token_grid.stride_pixels,
        "shares": SHARES,
        "patches": steps(tokens),
        "orders": orders,
        "resamples": RESAMPLES,
        "methods": costs,
        "tables": tables,
    }


def table(record: Mapping[str, Any]) -> Table:
    """A line for each method, of the first condition's logit."""
    headings = ("passes", "ms", "fall", "area removed", "put back", "fall to centre", "p", "fall to random", "p")
    shown = Table("method", *headings, box=box.SIMPLE)
    for cost, row in zip(record["methods"], record["tables"][0]["rows"], strict=True):
        differences = (row[FALL].get(to) for to in BASELINES)
        words = ((f"{of['mean']:+.2f}", p_value(of["p_value"])) if of else ("", "") for of in differences)
        shown.add_row(
            row["method"],
            f"{cost['forward']}+{cost['backward']}",
            f"{1000 * cost['seconds']:.1f}",
            *(f"{row[quantity]['mean']:.2f}" for quantity in (FALL, DELETION_AREA, INSERTION_AREA)),
            *(word for pair in words for word in pair),
        )
    return shown


def plot(record: Mapping[str, Any], path: Path) -> None:
    """Fall and rise of the logit against the share of the patches, under the first condition."""
    from headwise_exporter.studies.drawing import STYLE, STYLES
    from matplotlib import pyplot

    shown = record["tables"][0]
    shares = (0.0, *record["shares"], 1.0)
    with pyplot.rc_context(STYLE):
        made, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
        for axes, curve, title in zip(panels, ("falls", "rises"), ("removed", "put back"), strict=True):
            rows = {row["method"]: row for row in shown["rows"]}
            for (colour, marker), method in zip(STYLES, DRAWN, strict=False):
                points = (0.0, *rows[method][curve], shown["whole"])
                axes.plot(shares, points, marker=marker, color=colour, markersize=4, linewidth=1, label=method)
            axes.set_xlabel(f"share of the patches {title}")
        panels[0].set_ylabel("fall of the predicted logit")
        panels[1].set_ylabel("rise of the predicted logit")
        panels[1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        made.savefig(path, metadata={"Date": None})
        pyplot.close(made)


def main(
    run: RunArgument,
    name: NameArgument,
    images: Annotated[int, typer.Option(min=2, help="Validation images, drawn at random.")] = 300,
    fewer: Annotated[int, typer.Option(help="Of these, under all but the first way to remove patches; 0: not.")] = 100,
    orders: Annotated[int, typer.Option(min=1, help="Of patches that a baseline scores alike.")] = ORDERS,
    results: ResultsOption = RESULTS,
) -> None:
    """Measure, record and draw."""
    set_threads(1)
    validation = split_images(trained_dataset(run, console.progress), "validation")
    data = validation.chosen(torch.randperm(len(validation), generator=torch.Generator().manual_seed(0))[:images])
    record = measure(load_model(run / DENSE), data, fewer, orders)
    write_record(results / name / DELETION, record)
    plot(record, results / name / PLOT)
    console.out.print(table(record))


if __name__ == "__main__":
    typer.run(main)
