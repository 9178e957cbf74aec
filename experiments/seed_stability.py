"""Whether another training divides the labels among its heads alike: experts of several runs, their heads matched.

    for seed in 0 1 2; do
        exporter train --dataset digits --seed $seed --run runs/seed$seed
        exporter measure --run runs/seed$seed --split test
    done
    python benchmarks/seed_stability.py digits runs/seed0 runs/seed1 runs/seed2

writes results/NAME/seeds.json: for each encoder and pair of runs the share of labels with the same expert, what
exchanged labels would give, and its p-value (`nodes.heads.matched_agreement`). `record_study.py` puts it into
docs/results.md.
"""

from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from headwise_exporter.files import write_json
from headwise_exporter.nodes.heads import matched_agreement
from headwise_exporter.stages.build import run_findings, trained_recipe
from timing import machine

ROOT = Path(__file__).resolve().parent.parent


def stability(runs: list[Path]) -> dict[str, Any]:
    """Every pair of runs, encoder by encoder."""
    found = [run_findings(run) for run in runs]
    seeds = [trained_recipe(run).training.seed for run in runs]
    rows = []
    for (first, one), (second, other) in combinations(zip(seeds, found, strict=True), 2):
        for own, theirs in zip(one["heads"], other["heads"], strict=True):
            counts = (torch.tensor(encoder["recognising_nodes_HK"]) for encoder in (own, theirs))
            matched = matched_agreement(*counts)
            rows.append({"encoder": own["encoder"], "seeds": [first, second], **(asdict(matched) if matched else {})})
    return {
        **{name: found[0][name] for name in ("split", "images")},
        "seeds": seeds,
        "rows": rows,
        "machine": machine(),
    }


def main(
    name: Annotated[str, typer.Argument(help="Of the folder under results/.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of measured runs of one data set, other seeds.")],
) -> None:
    """Compare and record."""
    found = stability(runs)
    write_json(ROOT / "results" / name / "seeds.json", found)
    for row in found["rows"]:
        print(row)


if __name__ == "__main__":
    typer.run(main)
