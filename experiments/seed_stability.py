"""Whether another training divides the labels among its heads alike: experts of several runs, their heads matched.

    for seed in 0 1 2; do
        exporter train --dataset digits --seed $seed --run runs/seed$seed
        exporter measure --run runs/seed$seed --split test
    done
    python experiments/seed_stability.py digits runs/seed0 runs/seed1 runs/seed2

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
from headwise_exporter.nodes.heads import matched_agreement
from headwise_exporter.stages.run import run_findings, trained_recipe
from records import RESULTS, SEEDS, NameArgument, ResultsOption, write_record


def matched(encoder: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How far the same encoder of two runs names the same experts; empty where they share no label."""
    own_HK, other_HK = (torch.tensor(heads["recognising_nodes_HK"]) for heads in (encoder, other))
    agreement = matched_agreement(own_HK, other_HK)
    return asdict(agreement) if agreement else {}


def stability(runs: list[Path]) -> dict[str, Any]:
    """Every pair of runs, encoder by encoder."""
    findings = [run_findings(run) for run in runs]
    seeds = [trained_recipe(run).training.seed for run in runs]
    rows = [
        {"encoder": encoder["encoder"], "seeds": [seeds[first], seeds[second]], **matched(encoder, other)}
        for first, second in combinations(range(len(runs)), 2)
        for encoder, other in zip(findings[first]["heads"], findings[second]["heads"], strict=True)
    ]
    return {"split": findings[0]["split"], "images": findings[0]["images"], "seeds": seeds, "rows": rows}


def main(
    name: NameArgument,
    runs: Annotated[list[Path], typer.Argument(help="Folders of measured runs of one data set, other seeds.")],
    results: ResultsOption = RESULTS,
) -> None:
    """Compare and record."""
    record = stability(runs)
    write_record(results / name / SEEDS, record)
    for row in record["rows"]:
        print(row)


if __name__ == "__main__":
    typer.run(main)
