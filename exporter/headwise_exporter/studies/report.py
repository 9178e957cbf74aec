"""One page about a run, a model card first, and the numbers behind it.

report/report.html   self-contained: figures inside, no script, no request to anywhere
report/*.svg, *.png  each figure
report/report.json   verdicts, and the records that they rest on

A bundle has the same page with what its manifest says beside it: accuracies on test images, and speed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from headwise.text import shown
from headwise.v1.bundle_pb2 import Bundle
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from torch import Tensor

from headwise_exporter.files import atomic_write, write_json
from headwise_exporter.model.anatomy import FEED_FORWARD_HIDDEN, activation_name
from headwise_exporter.nodes.snp import THRESHOLD, NodeMeasurement, statistics
from headwise_exporter.progress import Progress, silent
from headwise_exporter.pruning.names import ANDC, DENSE
from headwise_exporter.studies.drawing import save, svg
from headwise_exporter.studies.model_card import card
from headwise_exporter.studies.pictures import Picture, pictures
from headwise_exporter.studies.speed import section
from headwise_exporter.studies.validation import THUMBNAIL_PIXELS
from headwise_exporter.studies.verdicts import RATIOS, outcomes, verdicts
from headwise_exporter.studies.wording import FILTERS

RECORD = "report.json"
SHOWN_NODES = 3
CONTROL_TAP = ("name", "kind", "encoder", "probe_accuracy", "figures")
CONTROL_HEADS = ("encoder", "expert_K", "sharpness_H", "null_mean_H", "p_value_H", "halves", "seeds")
PNG_DOTS_PER_INCH = 150


def example_nodes(node: NodeMeasurement, threshold: float = THRESHOLD) -> list[dict[str, Any]]:
    """The nodes at the quartiles of the number of recognised labels, among those that recognise any; may be empty.

    Each has its number, label means and weights (K each; their outer product is its matrix), and its clusters.
    """
    node_statistics = statistics(node, threshold)
    candidates = node_statistics.has_cluster_N.nonzero().flatten()
    if not len(candidates):
        return []
    order = candidates[node_statistics.labels_NK[candidates].sum(1).argsort(stable=True)]
    examples = []
    for quarter in range(1, SHOWN_NODES + 1):
        index = int(order[(len(order) - 1) * quarter // (SHOWN_NODES + 1)])
        cluster_K = node_statistics.cluster_NK[index]
        examples.append(
            {
                "node": index,
                "label_means_K": node.label_means_KN[:, index].tolist(),
                "weights_K": node.weight_KN[:, index].tolist(),
                "clusters": [
                    torch.nonzero(cluster_K == number).flatten().tolist()
                    for number in cluster_K.unique()
                    if number >= 0
                ],
            }
        )
    return examples


def label_changes(comparison: Mapping[str, Any], labels_N: Tensor, labels: int, share: float) -> list[float]:
    """Accuracy of each label under ANDC at a share minus that of the dense model, mean of the seeds."""
    counts_K = torch.bincount(labels_N, minlength=labels)

    def wrong(mask_by: str, share: float) -> Tensor:
        rows = [row["wrong"] for row in comparison["rows"] if (row["mask_by"], row["share"]) == (mask_by, share)]
        images = torch.tensor([image for row in rows for image in row], dtype=torch.long)
        return torch.bincount(labels_N[images], minlength=labels).double() / len(rows)

    changes_K = (wrong(DENSE, 1.0) - wrong(ANDC, share)) / counts_K
    return list(changes_K.tolist())


def _brief(control: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared of a control's findings, which are as long as the model's."""
    return {
        **{key: control[key] for key in ("split", "images", "threshold", "draws")},
        "tap_points": [
            {key: tap[key] for key in CONTROL_TAP}
            | {"uncertainties": {key: tap["uncertainties"][key] for key in RATIOS if key in tap["uncertainties"]}}
            for tap in control["tap_points"]
        ],
        "heads": [{key: encoder[key] for key in CONTROL_HEADS} for encoder in control["heads"]],
    }


def make_record(
    name: str,
    training: Mapping[str, Any],
    findings: dict[str, Any],
    controls: Mapping[str, Any] | None,
    validation: Mapping[str, Any] | None,
    comparison: dict[str, Any] | None,
    subsets: dict[str, Any] | None,
    pruning: dict[str, Any] | None,
    nodes: Mapping[str, NodeMeasurement],
    label_names: Sequence[str],
    labels_N: Tensor | None,
) -> dict[str, Any]:
    """All that the page shows but the verdicts, as plain values; what was not tried is None.

    Args:
        name: what the page is about.
        labels_N: of the images that were compared, by their index; None where none were.
    """
    last = activation_name(len(findings["heads"]) - 1, FEED_FORWARD_HIDDEN)
    examples = example_nodes(nodes[last], findings["threshold"])
    changes = None
    if comparison is not None and labels_N is not None:
        share = min(comparison["settings"]["shares"])
        changes = {"share": share, "changes_K": label_changes(comparison, labels_N, len(label_names), share)}
        comparison = {key: value for key, value in comparison.items() if key not in ("rows", "labels_N")}
    if subsets is not None:
        subsets = {key: value for key, value in subsets.items() if key != "rows"}
    return {
        "name": name,
        "label_names": list(label_names),
        "training": training,
        "findings": findings,
        "controls": controls and {name: _brief(control) for name, control in controls.items()},
        "validation": validation,
        "examples": examples,
        "comparison": comparison,
        "label_changes": changes,
        "subsets": subsets,
        "pruning": pruning,
    }


def _plain(value: Any) -> Any:
    """Text from outside as a page can have it; what is markup already stays."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _code(text: str) -> Markup:
    """Text for HTML, what stands between backticks as code."""
    pieces = escape(shown(text)).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if odd else piece for piece, odd in zip(pieces, cycle((False, True)))
    )


def with_verdicts(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its verdicts, and how ANDC does against every other choice of masks."""
    findings, comparison = record["findings"], record["comparison"]
    return {
        **record,
        "outcomes": [asdict(other) for other in outcomes(comparison)],
        "verdicts": [asdict(verdict) for verdict in verdicts(findings, record.get("controls"), comparison)],
    }


def page(record: Mapping[str, Any], drawn: Sequence[tuple[Picture, str]], manifest: Bundle | None = None) -> str:
    """The HTML page of a record with its verdicts.

    Args:
        drawn: its figures as SVG.
        manifest: of the bundle that the page is for.
    """
    environment = Environment(
        loader=PackageLoader("headwise_exporter.studies"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    environment.filters.update(code=_code, **FILTERS)
    validation = record.get("validation")  # which records of earlier releases lack
    values = {
        **record,
        "validation": validation,
        "controls": record.get("controls"),
        "title": manifest.name if manifest else record["name"],
        "bundle": manifest,
        "card": card(validation, manifest),
        "speed": section(manifest.bench) if manifest and manifest.HasField("bench") else None,
        "thumbnail_pixels": THUMBNAIL_PIXELS,
        "pictures": [(picture, Markup(content)) for picture, content in drawn],
        "version": version("headwise"),
    }
    return environment.get_template("report.html.jinja").render(values)


def write_report(folder: Path, record: Mapping[str, Any], progress: Progress = silent) -> Path:
    """Reach the verdicts, draw and write everything of a record; returns the page.

    Raises:
        OutputError: the system refused a write.
    """
    record = with_verdicts(record)
    drawn, shown = [], pictures(record)
    with progress("report", len(shown), "figures") as advance:
        for picture in shown:
            figure = picture.draw()
            drawn.append((picture, svg(figure)))
            _write(folder / f"{picture.name}.svg", drawn[-1][1])
            with atomic_write(folder / f"{picture.name}.png") as temporary:
                save(figure, temporary, format="png", dpi=PNG_DOTS_PER_INCH)
            advance()
    write_json(folder / RECORD, record)
    _write(folder / "report.html", page(record, drawn))
    return folder / "report.html"


def bundle_page(folder: Path, manifest: Bundle) -> str:
    """The page for a bundle, of a report that was written."""
    record = json.loads((folder / RECORD).read_text("utf-8"))
    return page(record, [(picture, _drawn(folder, picture)) for picture in pictures(record)], manifest)


def _drawn(folder: Path, picture: Picture) -> str:
    path = folder / f"{picture.name}.svg"
    return path.read_text("utf-8") if path.is_file() else svg(picture.draw())


def _write(path: Path, content: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(content, "utf-8")
