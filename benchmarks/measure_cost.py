"""What measuring all nodes costs: pooling, label means, matrices, clusters and ratios, over a plain evaluation pass.

A recipe's model with random weights and images (the cost depends on neither; clusters of random nodes are the most
there are). Rounds are interleaved. The same matrices by silencing nodes one at a time are extrapolated from a sample of
nodes: for each a pass of the model, the probe's output with all nodes minus that without it, averaged by label. The
sample must agree with what the one pass gives.

    python benchmarks/measure_cost.py [--recipe cct_7_3x1] [--images 1000] [--rounds 3] [--threads 2] [--json]
"""

import json
import resource
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import torch
import typer
from headwise.cores import usable_cores
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.machine import machine
from headwise_exporter.model.anatomy import (
    CLASSIFIER_HEAD,
    FEED_FORWARD_HIDDEN,
    FEED_FORWARD_OUT,
    HEADS,
    activation_name,
)
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.nodes.snp import NodeMeasurement, Probe, pool_nodes, statistics
from headwise_exporter.nodes.summary import summarise
from headwise_exporter.recipes import RECIPES
from headwise_exporter.training.evaluation import predict
from models import NORMALISATION, RecipeOption, model_config
from rich.console import Console
from rich.table import Table
from timing import quartiles, show_quartiles
from torch import Tensor

TOLERANCE = 1e-5
MIB = 1 << 20


def seconds(run: Callable[[], Any]) -> float:
    """Of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def random_images(config: CCTConfig, images: int) -> LabelledImages:
    """Images of every label in turn."""
    shape = (images, config.image_size, config.image_size, config.channels)
    pixels = torch.randint(256, shape, dtype=torch.uint8)
    mean, std = ((value,) * config.channels for value in NORMALISATION)
    return LabelledImages(pixels, torch.arange(images) % config.labels, mean, std)


def measure_all(model: CCT, probes: Mapping[str, Probe], data: LabelledImages) -> dict[str, NodeMeasurement]:
    """One pass, and everything that is said of each tap point at one threshold."""
    measured = {name: pooled.measurement() for name, pooled in pool_nodes(model, probes, data).items()}
    for measurement in measured.values():
        summarise(statistics(measurement))
    return measured


@torch.no_grad()
def silenced_matrix(model: CCT, probe: Probe, tap: str, node: int, data: LabelledImages) -> Tensor:
    """SNP matrix (K, K) of one node, by a pass in which the probe's output is compared with that without the node."""
    labels = model.config.labels
    sums_KK = torch.zeros(labels, labels, dtype=torch.float64)
    for images_BCYX, labels_B in data.batches():
        pooled_BN = probe.pool(model(images_BCYX)[1][tap])
        silenced_BN = pooled_BN.clone()
        silenced_BN[:, node] = 0.0
        weight_NK = probe.fc.weight.double().T
        sums_KK.index_add_(0, labels_B, pooled_BN.double() @ weight_NK - silenced_BN.double() @ weight_NK)
    return sums_KK / torch.bincount(data.labels_N, minlength=labels).unsqueeze(1)


def silence_sample(
    model: CCT, probes: Mapping[str, Probe], measured: Mapping[str, NodeMeasurement], data: LabelledImages
) -> tuple[list[float], float]:
    """Seconds of silencing the middle node of three tap points, and the largest difference to what was measured."""
    last = len(model.encoders) - 1
    places = ((0, HEADS), ((last + 1) // 2, FEED_FORWARD_HIDDEN), (last, FEED_FORWARD_OUT))
    taken, largest = [], 0.0
    for tap in (activation_name(encoder, kind) for encoder, kind in places):
        node = probes[tap].fc.in_features // 2
        started = time.perf_counter()
        silenced_KK = silenced_matrix(model, probes[tap], tap, node, data)
        taken.append(time.perf_counter() - started)
        expected_KK = measured[tap].label_means_KN[:, node].outer(measured[tap].weight_KN[:, node])
        largest = max(largest, float((silenced_KK - expected_KK).abs().max()))
    return taken, largest


def measure_cost(config: CCTConfig, images: int, rounds: int) -> dict[str, Any]:
    """Medians, the ratio with its quartiles, memory, and the comparison with silencing."""
    torch.manual_seed(0)
    model, data = CCT(config).eval(), random_images(config, images)
    probes = {
        tap.name: Probe(tap.nodes, config.labels).eval().requires_grad_(False)
        for tap in model.tap_points()
        if not tap.pooled
    }
    predict(model, data)  # warm-up; its memory is that of any evaluation
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measured = measure_all(model, probes, data)
    extra_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    runs = (lambda: predict(model, data), lambda: measure_all(model, probes, data))
    times = np.array([[seconds(run) for run in runs] for _ in range(rounds)])
    silencing, difference = silence_sample(model, probes, measured, data)
    if not difference <= TOLERANCE:
        raise SystemExit(f"expected silencing to agree to {TOLERANCE}, found a difference of {difference:.3g}")
    nodes = sum(measurement.weight_KN.shape[1] for measurement in measured.values())
    evaluation, all_nodes = np.median(times, axis=0)
    return {
        "nodes": nodes,
        "nodes_without_classifier_head": nodes - measured[CLASSIFIER_HEAD].weight_KN.shape[1],
        "images": images,
        "evaluation_seconds": evaluation,
        "measure_seconds": all_nodes,
        **quartiles(times[:, 1] / times[:, 0]),
        "pooled_mib": 4 * images * nodes / MIB,
        "extra_peak_mib": extra_mib,
        "silencing_seconds": float(np.median(silencing)) * nodes,
        "silencing_sample": len(silencing),
        "silencing_ratio": float(np.median(silencing)) * nodes / all_nodes,
        "largest_difference": difference,
    }


def report(figures: dict[str, Any], title: str) -> Table:
    """One line for each figure."""
    table = Table(title=title)
    table.add_column("what")
    table.add_column("figure", justify="right")
    silencing_hours = figures["silencing_seconds"] / 3600
    for name, value in (
        ("nodes measured", f"{figures['nodes']:,}"),
        ("evaluation pass, s", f"{figures['evaluation_seconds']:.1f}"),
        ("all nodes, s", f"{figures['measure_seconds']:.1f}"),
        ("ratio (quartiles)", show_quartiles(figures)),
        ("pooled values, MiB", f"{figures['pooled_mib']:.0f}"),
        ("peak above an evaluation, MiB", f"{figures['extra_peak_mib']:.0f}"),
        (f"silencing, extrapolated from {figures['silencing_sample']} nodes, h", f"{silencing_hours:.1f}"),
        ("silencing over measuring", f"{figures['silencing_ratio']:,.0f} x"),
        ("largest difference to silencing", f"{figures['largest_difference']:.1e}"),
    ):
        table.add_row(name, value)
    return table


def main(
    recipe: RecipeOption = "cct_7_3x1",
    images: Annotated[int, typer.Option(min=1, help="Held-out images; at least one of each label.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = usable_cores(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    config = model_config(RECIPES[recipe]())
    if images < config.labels:
        raise typer.BadParameter(f"expected at least {config.labels}, one of each label, found {images}")
    figures = measure_cost(config, images, rounds)
    if as_json:
        settings = {"recipe": recipe, "threads": threads, "rounds": rounds}
        print(json.dumps({"machine": machine(), **settings, **figures}, indent=2))
        return
    Console().print(report(figures, f"{recipe}, {images:,} images, {threads} threads, {rounds} interleaved rounds"))


if __name__ == "__main__":
    typer.run(main)
