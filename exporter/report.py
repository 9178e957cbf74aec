"""One page about a run: what was claimed, what was found, and the figures; and the figures and numbers behind it.

report/report.html   self-contained: figures inside, no script, no request to anywhere
report/*.svg, *.png  each figure
report/report.json   verdicts, and the records that they were judged on
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from torch import Tensor

from exporter import plots
from exporter.connections import ANDC, DENSE
from exporter.files import whole_file, write_json
from exporter.snp import THRESHOLD, NodeMeasurement, statistics
from exporter.verdicts import headline, verdicts

SHOWN_NODES = 3
PNG_DOTS_PER_INCH = 150
EXAMPLE_TAP = "feed_forward_hidden"


@dataclass(frozen=True)
class Picture:
    """A figure with what a reader needs beside it."""

    name: str  # of its file
    title: str
    text: str
    figure: Figure


def example_nodes(
    node: NodeMeasurement, label_names: Sequence[str], threshold: float = THRESHOLD
) -> list[dict[str, Any]]:
    """The nodes at the quartiles of the number of recognised labels, among those that recognise any; may be empty."""
    found = statistics(node, threshold)
    candidates = found.has_cluster_N.nonzero().flatten()
    if not len(candidates):
        return []
    order = candidates[found.labels_NK[candidates].sum(1).argsort(stable=True)]
    examples = []
    for quarter in range(1, SHOWN_NODES + 1):
        index = int(order[(len(order) - 1) * quarter // (SHOWN_NODES + 1)])
        matrix_KK = node.class_means_KN[:, index].unsqueeze(1) * node.weight_KN[:, index].unsqueeze(0)
        cluster_K = found.cluster_NK[index]
        clusters = [(cluster_K == number).nonzero().flatten().tolist() for number in range(int(cluster_K.max()) + 1)]
        examples.append(
            {
                "title": f"node {index}",
                "matrix": (matrix_KK / matrix_KK.max()).tolist(),
                "clusters": clusters,
                "labels": [[label_names[label] for label in cluster] for cluster in clusters],
            }
        )
    return examples


def label_changes(
    comparison: Mapping[str, Any], labels_N: Tensor, label_names: Sequence[str], share: float
) -> list[tuple[str, float]]:
    """Accuracy of each label under ANDC at a share minus that of the dense model, mean of the seeds."""
    counts_K = torch.bincount(labels_N, minlength=len(label_names))

    def wrong(rule: str, share: float) -> Tensor:
        rows = [row["wrong"] for row in comparison["rows"] if (row["rule"], row["share"]) == (rule, share)]
        images = torch.tensor([image for row in rows for image in row], dtype=torch.long)
        return torch.bincount(labels_N[images], minlength=len(label_names)).double() / len(rows)

    changes_K = (wrong(DENSE, 1.0) - wrong(ANDC, share)) / counts_K
    return list(zip(label_names, changes_K.tolist(), strict=True))


def pictures(
    training: Mapping[str, Any],
    findings: Mapping[str, Any],
    comparison: Mapping[str, Any] | None,
    subsets: Mapping[str, Any] | None,
    nodes: Mapping[str, NodeMeasurement],
    label_names: Sequence[str],
    labels_N: Tensor,
) -> list[Picture]:
    """Every figure of a run, in the order of the page."""
    last = len(findings["heads"]) - 1
    made = []
    if training["epochs"]:  # none where weights were taken as they are
        made.append(Picture("training", "Training", "", plots.training_curve(training)))
    made += [
        Picture(
            "encoders",
            "Along the encoders",
            f"Bands are 95 % of {findings['draws']} bootstrap draws over images.",
            plots.along_encoders(findings),
        ),
        Picture("histograms", f"Nodes of encoder {last}", "", plots.histograms(findings, last)),
        Picture(
            "expertise",
            "Which head knows which label",
            "An argmax over heads always finds experts: the next figure says how many of them chance would make.",
            plots.expertise_map(findings, label_names),
        ),
        Picture(
            "sharpness",
            "Heads against chance",
            f"The same nodes dealt at random to heads of the same size, {findings['heads'][0]['deals']:,} times.",
            plots.sharpness(findings),
        ),
    ]
    if examples := example_nodes(nodes[f"encoders.{last}.{EXAMPLE_TAP}"], label_names, findings["threshold"]):
        told = "; ".join(
            f"{example['title']}: {' and '.join('{' + ', '.join(names) + '}' for names in example['labels'])}"
            for example in examples
        )
        made.append(
            Picture(
                "matrices",
                f"Single nodes of the last feed-forward layer (encoder {last})",
                f"The nodes at the quartiles of the number of recognised labels; their clusters: {told}.",
                plots.snp_matrices(examples, label_names),
            )
        )
    if comparison is not None:
        smallest = min(comparison["settings"]["shares"])
        changes = label_changes(comparison, labels_N, label_names, smallest)
        made += [
            Picture(
                "shares",
                "ANDC against its controls",
                f"After the short training; bands from the lowest to the highest of {comparison['settings']['seeds']} "
                f"seeds.",
                plots.accuracy_by_share(comparison),
            ),
            Picture(
                "labels",
                "Labels that lost and gained",
                f"ANDC at {smallest:.0%} of the connections against the dense model after the same training.",
                plots.label_changes(changes, f"ANDC at {smallest:.0%} minus dense"),
            ),
        ]
    if subsets is not None:
        settings = subsets["settings"]
        made.append(
            Picture(
                "subsets",
                f"Hidden nodes that {settings['labels']} labels need",
                f"{settings['subsets']} random subsets, no training after removal; accuracy among the subset's labels, "
                f"bands are 95 % of a bootstrap over subsets.",
                plots.accuracy_for_subsets(subsets),
            )
        )
    return made


def svg(figure: Figure) -> str:
    """The figure as an SVG document, which may stand in a page."""
    written = io.StringIO()
    with mpl.rc_context(plots.STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None})
    content = written.getvalue()
    return content[content.index("<svg") :]


def _code(text: str) -> Markup:
    """Text for HTML, what stands between backticks as code."""
    pieces = escape(text).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if odd else piece for piece, odd in zip(pieces, cycle((False, True)))
    )


def page(run: str, summary: Mapping[str, Any], drawn: Sequence[tuple[Picture, str]]) -> str:
    """The HTML page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = _code
    template = environment.from_string((files("exporter") / "report.html.jinja").read_text("utf-8"))
    return template.render(
        run=run,
        version=version("headwise"),
        pictures=[(picture, Markup(content)) for picture, content in drawn],
        **summary,
    )


def write_report(
    folder: Path,
    name: str,
    training: Mapping[str, Any],
    findings: dict[str, Any],
    comparison: dict[str, Any] | None,
    subsets: dict[str, Any] | None,
    pruning: dict[str, Any] | None,
    nodes: Mapping[str, NodeMeasurement],
    label_names: Sequence[str],
    labels_N: Tensor,
) -> Path:
    """Draw, judge and write everything; returns the page.

    Args:
        name: what the page is about.
        pruning: `headwise.v1.PruningProvenance` in proto3 JSON.
        labels_N: of the images that were compared, by their index.

    Raises:
        OutputError: the system refused a write.
    """
    made = pictures(training, findings, comparison, subsets, nodes, label_names, labels_N)
    drawn = [(picture, svg(picture.figure)) for picture in made]
    summary = {
        "headline": headline(comparison),
        "verdicts": [asdict(verdict) for verdict in verdicts(findings, comparison)],
        "training": training,
        "findings": findings,
        "comparison": comparison,
        "subsets": subsets,
        "pruning": pruning,
    }
    for picture, content in drawn:
        _write(folder / f"{picture.name}.svg", content)
        with whole_file(folder / f"{picture.name}.png") as temporary:
            picture.figure.savefig(temporary, format="png", dpi=PNG_DOTS_PER_INCH)
    write_json(folder / "report.json", summary)
    _write(folder / "report.html", page(name, summary, drawn))
    return folder / "report.html"


def _write(path: Path, content: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(content, "utf-8")
