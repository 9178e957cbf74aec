"""Which figures the page about a run has, and what a reader needs beside each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from headwise.text import shown
from matplotlib.figure import Figure

from headwise_exporter.studies import plots
from headwise_exporter.studies.model_card import matrix
from headwise_exporter.studies.validation import confusion_matrix


@dataclass(frozen=True)
class Picture:
    """A figure that can be drawn, with what a reader needs beside it."""

    section: str  # of the page: errors, making, knowledge or claims
    name: str  # of its file
    title: str
    text: str
    draw: Callable[[], Figure]


def pictures(record: Mapping[str, Any]) -> list[Picture]:
    """Every figure of a record, in the order of the page."""
    findings, names = record["findings"], record["label_names"]
    controls = record.get("controls")
    last = len(findings["heads"]) - 1
    drawn = []
    if (validation := record.get("validation")) and matrix(validation) is None:
        drawn.append(
            Picture(
                "errors",
                "confusion",
                "Confusion matrix",
                "Rows: the image's label. Columns: what the model says. Labels that are often confused stand together.",
                partial(plots.confusion_map, confusion_matrix(validation), names),
            )
        )
    training = record["training"]
    if training["epochs"]:  # none where weights were taken as they are
        own = training["recipe"]["training"]["epochs"] > 0
        text = "" if own else f"Of {training['initial_weights']}, whose weights the run took as they are."
        drawn.append(Picture("making", "training", "Training", text, partial(plots.training_curve, training)))
    drawn += [
        Picture(
            "knowledge",
            "encoders",
            "Along the encoders",
            "Bands in colour are 95 % intervals over images"
            + ("; in grey from the lowest to the highest of all controls." if controls else "."),
            partial(plots.along_encoders, findings, controls),
        ),
        Picture("knowledge", "histograms", f"Nodes of encoder {last}", "", partial(plots.histograms, findings, last)),
        Picture(
            "knowledge",
            "expertise",
            "Which head knows which label",
            "An argmax over heads always finds experts: the next figure says how many of them chance would make.",
            partial(plots.expertise_map, findings, names),
        ),
        Picture(
            "knowledge",
            "sharpness",
            "Heads against chance",
            f"The same nodes dealt at random to heads of the same size, {findings['heads'][0]['deals']:,} times"
            + ("; and the same heads of controls, each of which has a null of its own." if controls else "."),
            partial(plots.sharpness, findings, controls),
        ),
    ]
    if examples := record["examples"]:
        drawn.append(
            Picture(
                "knowledge",
                "matrices",
                f"Single nodes of the last feed-forward layer (encoder {last})",
                "The nodes at the quartiles of the number of recognised labels; their clusters: "
                f"{'; '.join(_clusters(example, names) for example in examples)}.",
                partial(plots.snp_matrices, examples, names),
            )
        )
    if comparison := record["comparison"]:
        changes = record["label_changes"]
        kept = f"ANDC at {changes['share']:.0%} of the connections"
        most = plots.MOST_CHANGES
        named = f"; of {len(names)} labels the {most} that lost most and the {most} that gained most, or lost least"
        drawn += [
            Picture(
                "claims",
                "shares",
                "ANDC against its controls",
                f"After the fine-tuning; bands from the lowest to the highest of {comparison['settings']['seeds']} "
                f"seeds.",
                partial(plots.accuracy_by_share, comparison),
            ),
            Picture(
                "claims",
                "labels",
                "Labels that lost and gained",
                f"{kept} against the dense model after the same training{named if len(names) > 2 * most else ''}.",
                partial(
                    plots.label_changes, changes["changes_K"], names, f"ANDC at {changes['share']:.0%} minus dense"
                ),
            ),
        ]
    if subsets := record["subsets"]:
        settings = subsets["settings"]
        drawn.append(
            Picture(
                "knowledge",
                "subsets",
                f"Hidden nodes that {settings['labels']} labels need",
                f"{settings['subsets']} random subsets, no training after removal; accuracy among the subset's labels, "
                f"bands are 95 % of a bootstrap over subsets.",
                partial(plots.accuracy_for_subsets, subsets),
            )
        )
    return drawn


def _clusters(example: Mapping[str, Any], label_names: Sequence[str]) -> str:
    """A node and its clusters by the names of their labels."""
    clusters = (
        "{" + ", ".join(shown(label_names[label]) for label in cluster) + "}" for cluster in example["clusters"]
    )
    return f"node {example['node']}: {' and '.join(clusters)}"
