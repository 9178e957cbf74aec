"""What the nodes and heads of a run's dense model know.

    measure   dense                         -> dense.measurements.safetensors
    findings  dense, its measurements       -> findings.json (`nodes.findings`)
    controls  dense, its measurements       -> controls.json (`nodes.controls`), where they are asked for

A stage whose inputs have not changed is skipped (`stages.stage`).
"""

from dataclasses import asdict
from pathlib import Path

from headwise_exporter.data.base import Dataset
from headwise_exporter.data.images import split_images
from headwise_exporter.files import write_json
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.nodes.controls import SEEDS, exchanged, untrained
from headwise_exporter.nodes.findings import FindingsSettings, findings, further_seeds, pool_heads
from headwise_exporter.nodes.measurements import (
    Measurements,
    load_measurements,
    measure_model,
    measured_images,
    save_measurements,
)
from headwise_exporter.nodes.names import EXCHANGED
from headwise_exporter.nodes.snp import THRESHOLD, PooledNodes, ProbeSettings, pool_nodes, train_probes
from headwise_exporter.progress import Progress
from headwise_exporter.stages.run import CONTROLS, DENSE, DENSE_MEASUREMENTS, FINDINGS, TRAINING
from headwise_exporter.stages.stage import Stage, carry_out

MEASURE_STAGE = Stage("measure", (DENSE, TRAINING), (DENSE_MEASUREMENTS,))
FINDINGS_STAGE = Stage("findings", (DENSE, TRAINING, DENSE_MEASUREMENTS), (FINDINGS,))
CONTROLS_STAGE = Stage("controls", (DENSE, TRAINING, DENSE_MEASUREMENTS), (CONTROLS,))


def measure_stage(run: Path, settings: ProbeSettings, dataset: Dataset, progress: Progress) -> bool:
    """Train the probes of the dense model and measure its nodes; True when there was something to do."""

    def produce() -> None:
        measurements = measured(load_model(run / DENSE), dataset, settings, progress, "measure")
        save_measurements(run / DENSE_MEASUREMENTS, measurements)

    return carry_out(run, MEASURE_STAGE, asdict(settings), produce)


def measured(model: CCT, dataset: Dataset, settings: ProbeSettings, progress: Progress, title: str) -> Measurements:
    """The nodes of a model on validation images, by probes that are trained for it.

    Args:
        title: of the progress bar.
    """
    train_data, held_out = (split_images(dataset, name) for name in ("train", "validation"))
    with progress(title, measured_images(train_data, held_out, settings), "images") as advance:
        return measure_model(model, train_data, held_out, settings, advance)


def findings_stage(
    run: Path, settings: FindingsSettings, probes: ProbeSettings, dataset: Dataset, progress: Progress
) -> bool:
    """What the dense model's nodes and heads know, and how sure that is; True when there was something to do.

    Raises:
        CheckpointError: the run was not measured.
    """

    def produce() -> None:
        model, measurements = load_model(run / DENSE), load_measurements(run / DENSE_MEASUREMENTS)
        train_data, held_out = split_images(dataset, "train"), split_images(dataset, settings.split)
        others: list[dict[str, PooledNodes]] = []
        for further in further_seeds(probes, settings.probe_seeds):
            images = measured_images(train_data, held_out, further)
            with progress(f"probes again, seed {further.seed}", images, "images") as advance:
                others.append(pool_heads(model, train_data, held_out, further, advance))
        with progress("pool the nodes", len(held_out), "images") as advance:
            pooled = pool_nodes(model, measurements.probes, held_out, on_images=advance)
        with progress("findings", len(pooled), "tap points") as advance:
            record = findings(model, pooled, others, THRESHOLD, settings.draws, lambda name: advance(1, name))
        write_json(run / FINDINGS, {"split": settings.split, **record})

    return carry_out(run, FINDINGS_STAGE, {"findings": asdict(settings), "probes": asdict(probes)}, produce)


def controls_stage(
    run: Path, settings: FindingsSettings, probes: ProbeSettings, dataset: Dataset, progress: Progress
) -> bool:
    """What the figures of nodes and heads are where there is nothing to find; True when there was something to do.

    Args:
        settings: of the findings that they are to be compared with, as `probes`.

    Raises:
        CheckpointError: the run was not measured.
    """

    def produce() -> None:
        model, train_data = load_model(run / DENSE), split_images(dataset, "train")
        held_out = split_images(dataset, settings.split)
        sample = train_data.sample(probes.images)
        cases = {name: (untrained(model, seed), sample, held_out) for name, seed in SEEDS.items()}
        cases[EXCHANGED] = (model, exchanged(sample, seed=0), exchanged(held_out, seed=1))
        record = {}
        for name, (of, learnt, measured_on) in cases.items():
            images = measured_images(train_data, held_out, probes)
            with progress(f"control, {name.replace('_', ' ')}", images, "images") as advance:
                pooled = pool_nodes(of, train_probes(of, learnt, probes, advance), measured_on, on_images=advance)
            with progress("findings", len(pooled), "tap points") as advance:
                own = findings(of, pooled, (), THRESHOLD, settings.draws, lambda tap: advance(1, tap))
            record[name] = {"split": settings.split, **own}
        write_json(run / CONTROLS, record)

    asked = {"split": settings.split, "draws": settings.draws, "probes": asdict(probes)}
    return carry_out(run, CONTROLS_STAGE, asked, produce)
