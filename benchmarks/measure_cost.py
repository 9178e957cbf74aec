"""What measuring all nodes costs: pooling, label means, matrices, clusters and ratios, over a plain evaluation pass.

CCT-7/3x1 with random weights and images (the cost depends on neither; clusters of random nodes are the most there are).
Rounds are interleaved. The same matrices by silencing nodes one at a time are extrapolated from a sample of nodes: for
each a pass of the model, the probe's output with all nodes minus that without it, averaged by label. The sample must
agree with what the one pass gives.

    python benchmarks/measure_cost.py [--images 1000] [--rounds 3] [--threads 2] [--json]
"""

import json
import os
import resource
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT, cct_7_3x1
from headwise_exporter.nodes.snp import CLASSIFIER_HEAD, NodeMeasurement, Probe, pool_nodes, statistics, tap_points
from headwise_exporter.nodes.summary import summarise
from headwise_exporter.training.loop import predict
from rich.console import Console
from rich.table import Table
from timing import machine, quartiles, show_quartiles
from torch import Tensor

TOLERANCE = 1e-5
SAMPLE = ("encoders.0.heads", "encoders.3.feed_forward_hidden", "encoders.6.feed_forward_out")
MIB = 1 << 20


def seconds(run: Callable[[], Any]) -> float:
    """Of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure_all(model: CCT, probes: dict[str, Probe], data: LabelledImages) -> dict[str, NodeMeasurement]:
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


def measure_cost(images: int, rounds: int) -> dict[str, Any]:
    """Medians, the ratio with its quartiles, memory, and the comparison with silencing."""
    torch.manual_seed(0)
    model = CCT(cct_7_3x1()).eval()
    labels = model.config.labels
    pixels = torch.randint(256, (images, 32, 32, 3), dtype=torch.uint8)
    data = LabelledImages(pixels, torch.arange(images) % labels, (0.5,) * 3, (0.25,) * 3)
    probes = {name: Probe(nodes, labels).eval().requires_grad_(False) for name, nodes in tap_points(model).items()}
    predict(model, data)  # warm-up; its memory is that of any evaluation
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measured = measure_all(model, probes, data)
    extra_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    times = np.array(
        [
            (seconds(lambda: predict(model, data)), seconds(lambda: measure_all(model, probes, data)))
            for _ in range(rounds)
        ]
    )
    differences, silencing = [], []
    for tap in SAMPLE:
        node = probes[tap].fc.in_features // 2
        started = time.perf_counter()
        found_KK = silenced_matrix(model, probes[tap], tap, node, data)
        silencing.append(time.perf_counter() - started)
        expected_KK = measured[tap].label_means_KN[:, node].outer(measured[tap].weight_KN[:, node])
        differences.append(float((found_KK - expected_KK).abs().max()))
    if not max(differences) <= TOLERANCE:
        raise SystemExit(f"expected silencing to agree to {TOLERANCE}, found a difference of {max(differences):.3g}")
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
        "silencing_sample": len(SAMPLE),
        "silencing_ratio": float(np.median(silencing)) * nodes / all_nodes,
        "largest_difference": max(differences),
    }


def report(found: dict[str, Any], threads: int, rounds: int) -> Table:
    """One line for each figure."""
    table = Table(title=f"CCT-7/3x1, {found['images']:,} images, {threads} threads, {rounds} interleaved rounds")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in (
        ("nodes measured", f"{found['nodes']:,}"),
        ("evaluation pass, s", f"{found['evaluation_seconds']:.1f}"),
        ("all nodes, s", f"{found['measure_seconds']:.1f}"),
        ("ratio (quartiles)", show_quartiles(found)),
        ("pooled values, MiB", f"{found['pooled_mib']:.0f}"),
        ("peak above an evaluation, MiB", f"{found['extra_peak_mib']:.0f}"),
        (
            f"silencing, extrapolated from {found['silencing_sample']} nodes, h",
            f"{found['silencing_seconds'] / 3600:.1f}",
        ),
        ("silencing over measuring", f"{found['silencing_ratio']:,.0f} x"),
        ("largest difference to silencing", f"{found['largest_difference']:.1e}"),
    ):
        table.add_row(name, value)
    return table


def main(
    images: Annotated[int, typer.Option(min=100, help="Held-out images.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = len(os.sched_getaffinity(0)),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    found = measure_cost(images, rounds)
    if as_json:
        print(json.dumps({"machine": machine(), "threads": threads, "rounds": rounds, **found}, indent=2))
        return
    Console().print(report(found, threads, rounds))


if __name__ == "__main__":
    typer.run(main)
