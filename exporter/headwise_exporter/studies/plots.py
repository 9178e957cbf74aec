"""Figures of a report: one function each, from plain records to a matplotlib figure (`studies.drawing`)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from headwise.v1.bundle_pb2 import Bench
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from headwise_exporter.model.anatomy import FEED_FORWARD_HIDDEN, FEED_FORWARD_OUT, HEADS
from headwise_exporter.pruning.names import ANDC, DENSE, GRADUAL, PERMUTED, SCORES
from headwise_exporter.studies.drawing import (
    BLACK,
    BLUE,
    GREEN,
    LABEL_INCHES,
    ORANGE,
    STYLES,
    VERMILION,
    figure,
    short_names,
    styled,
)
from headwise_exporter.studies.speed import batches, timed_at, variant_title
from headwise_exporter.studies.wording import CONTROL_NAMES

KINDS = {HEADS: BLUE, FEED_FORWARD_HIDDEN: ORANGE, FEED_FORWARD_OUT: GREEN}
MASK_STYLES = dict(zip((ANDC, PERMUTED, *SCORES), STYLES, strict=False))
CONTROL_MARKERS = ("1", "2", "x")
MATRIX_LABEL_INCHES, MATRIX_INCHES = 0.1, 4.0  # a side of a confusion matrix, by label and at least
SHOWN_LABELS, SHOWN_OTHERS = 20, 5  # of a node's matrix, and at least how many outside its clusters
MOST_CHANGES = 12  # labels that lost, and as many that gained
Record = Mapping[str, Any]


@styled
def training_curve(record: Record, test: Record | None = None) -> Figure:
    """Loss and validation accuracy by epoch, and the test accuracy at the end where it is known."""
    epochs = record["epochs"]
    drawn, loss_axes = figure(7, 3.6)
    numbers = [epoch["epoch"] for epoch in epochs]
    loss_axes.plot(numbers, [epoch["loss"] for epoch in epochs], color=BLUE, label="training loss")
    loss_axes.set(xlabel="epoch", ylabel="training loss (augmented images)", xlim=(0, numbers[-1] + 0.5))
    loss_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy_axes = loss_axes.twinx()
    evaluated = [epoch for epoch in epochs if epoch["validation_accuracy"] is not None]
    percents = [100 * epoch["validation_accuracy"] for epoch in evaluated]
    accuracy_axes.plot([epoch["epoch"] for epoch in evaluated], percents, "o-", color=VERMILION, label="validation")
    if test is not None:
        low, middle, high = (100 * test[key] for key in ("interval_low", "accuracy", "interval_high"))
        error = [[middle - low], [high - middle]]
        accuracy_axes.errorbar([numbers[-1]], [middle], error, fmt="s", color=BLACK, capsize=4, label="test")
    accuracy_axes.set(ylabel="accuracy %", ylim=(0, 100))
    accuracy_axes.spines["right"].set_visible(True)
    handles = [*loss_axes.get_legend_handles_labels()[0], *accuracy_axes.get_legend_handles_labels()[0]]
    loss_axes.legend(handles=handles, loc="center right", frameon=False)
    return drawn


def _neighbours(confusion_KK: NDArray[np.int64]) -> list[int]:
    """An order of the labels in which those that are often confused stand together.

    By average linkage of the share of one label's images that are taken for the other, of both directions the mean.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # slow to import

    share_KK = confusion_KK / np.maximum(confusion_KK.sum(1, keepdims=True), 1)
    distance_KK = 1 - (share_KK + share_KK.T) / 2
    order = leaves_list(linkage(distance_KK[np.triu_indices(len(distance_KK), 1)], "average"))
    return list(order.tolist())


@styled
def confusion_map(confusion_KK: NDArray[np.int64], label_names: Sequence[str]) -> Figure:
    """The share of each label's images (rows) that have each first label (columns), for many labels.

    The scale is that of square roots, which a few per cent are seen on beside the diagonal.
    """
    order = _neighbours(confusion_KK)
    share_KK = confusion_KK / np.maximum(confusion_KK.sum(1, keepdims=True), 1)
    side = max(MATRIX_LABEL_INCHES * len(order), MATRIX_INCHES)
    drawn, axes = figure(2.6 + side, 1.4 + side)
    image = axes.imshow(100 * share_KK[order][:, order], cmap="cividis", norm=PowerNorm(0.5, 0, 100))
    names = short_names([label_names[label] for label in order])
    axes.set_xticks(range(len(order)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(order)), names, fontsize=6)
    axes.set(xlabel="first label", ylabel="label")
    drawn.colorbar(image, ax=axes, shrink=0.5, label="% of the label's images", ticks=(0, 1, 5, 10, 25, 50, 100))
    return drawn


def _control_band(axes: Axes, controls: Record) -> None:
    """From the lowest to the highest ratio of all controls and kinds of tap points, encoder by encoder."""
    by_encoder: dict[int, list[float]] = {}
    for control in controls.values():
        for tap in control["tap_points"]:
            if tap["kind"] in KINDS and tap["figures"]["snr"] is not None:
                by_encoder.setdefault(tap["encoder"], []).append(tap["figures"]["snr"])
    low, high = ([end(values) for values in by_encoder.values()] for end in (min, max))
    axes.fill_between(list(by_encoder), low, high, color=BLACK, alpha=0.15, linewidth=0, label="controls")


@styled
def along_encoders(findings: Record, controls: Record | None = None) -> Figure:
    """Signal-to-noise ratio with its interval, and the probe's accuracy, encoder by encoder; controls as a band."""
    drawn, (ratio_axes, accuracy_axes) = figure(7, 3.2, 2)
    if controls:
        _control_band(ratio_axes, controls)
    for kind, colour in KINDS.items():
        taps = [tap for tap in findings["tap_points"] if tap["kind"] == kind]
        name = kind.replace("_", " ")
        known = [
            (i, tap["figures"]["snr"], tap["uncertainties"]["snr"])
            for i, tap in enumerate(taps)
            if "snr" in tap["uncertainties"]
        ]
        places = [place for place, _, _ in known]
        ratio_axes.plot(places, [value for _, value, _ in known], "o-", color=colour, label=name)
        ratio_axes.fill_between(
            places,
            [spread["low"] for *_, spread in known],
            [spread["high"] for *_, spread in known],
            color=colour,
            alpha=0.2,
        )
        accuracy_axes.plot([100 * tap["probe_accuracy"] for tap in taps], "o-", color=colour, label=name)
    ratio_axes.axhline(1, color=BLACK, linewidth=0.8, linestyle=":")
    ratio_axes.set(xlabel="encoder", ylabel="signal-to-noise ratio", title="dotted: labels are not told apart")
    accuracy_axes.set(xlabel="encoder", ylabel="probe accuracy %", ylim=(0, 100), title="read out at this point")
    for axes in (ratio_axes, accuracy_axes):
        axes.set_xticks(range(len(findings["heads"])))
    ratio_axes.legend(frameon=False)
    return drawn


@styled
def snp_matrices(nodes: Sequence[Record], label_names: Sequence[str]) -> Figure:
    """Each node's matrix in the labels' order, and its clusters' labels alone with a few others, blocks marked.

    Args:
        nodes: `node`, its number; `label_means_K` and `weights_K`; `clusters`: lists of labels.
    """
    labels = len(label_names)
    drawn, axes = figure(3.6 * len(nodes), 5.8)
    drawn.clear()
    axes = drawn.subplots(2, len(nodes), squeeze=False)
    for column, node in enumerate(nodes):
        matrix = np.outer(node["label_means_K"], node["weights_K"])
        matrix /= matrix.max()
        members = [label for cluster in node["clusters"] for label in cluster]
        others = [label for label in range(labels) if label not in set(members)]
        order = [*members, *others[: max(SHOWN_LABELS - len(members), SHOWN_OTHERS)]]
        shown = ((list(range(labels)), f"node {node['node']}"), (order, "its clusters"))
        for row, (ordering, title) in enumerate(shown):
            image = axes[row][column].imshow(matrix[ordering][:, ordering], cmap="cividis", vmin=-1, vmax=1)
            axes[row][column].set(title=title, xlabel="output", ylabel="true label")
        first = 0
        for cluster in node["clusters"]:
            box = Rectangle((first - 0.5, first - 0.5), len(cluster), len(cluster), fill=False, edgecolor=VERMILION)
            axes[1][column].add_patch(box)
            first += len(cluster)
        names = short_names([label_names[label] for label in order])
        axes[1][column].set_xticks([])
        axes[1][column].set_yticks(range(len(order)), names, fontsize=5.5 if len(order) > SHOWN_LABELS else 7)
        axes[1][column].set_ylabel("")
    drawn.colorbar(image, ax=axes, shrink=0.5, label="field over the largest")
    return drawn


@styled
def expertise_map(findings: Record, label_names: Sequence[str]) -> Figure:
    """Share of each label's recognising nodes that a head has; the expert is marked. Labels are rows."""
    shares, names = [], []
    for encoder in findings["heads"]:
        counts = np.asarray(encoder["recognising_nodes_HK"], float)
        totals = counts.sum(0)
        shares.append(np.where(totals > 0, counts / np.maximum(totals, 1), np.nan))
        names += [f"{encoder['encoder']}.{head}" for head in range(len(counts))]
    height = 1.6 + LABEL_INCHES * len(label_names)
    drawn, axes = figure(max(5.0, 1.8 + 0.28 * len(names)), height)
    image = axes.imshow(np.concatenate(shares).T, aspect="auto", cmap="cividis", vmin=0)
    first = 0
    for share in shares:
        known = ~np.isnan(share).all(0)
        experts = np.nan_to_num(share).argmax(0)
        rows = np.flatnonzero(known)
        axes.plot(first + experts[rows], rows, "o", color=VERMILION, markeredgecolor="white", markersize=4)
        first += len(share)
        axes.axvline(first - 0.5, color="white", linewidth=2)
    axes.set_yticks(range(len(label_names)), short_names(label_names), fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set(xlabel="encoder.head (a dot marks the expert)")
    drawn.colorbar(
        image,
        ax=axes,
        location="top",
        label="share of the label's recognising nodes",
        aspect=40,
        fraction=0.4 / height,
        pad=0.1 / height,
    )
    return drawn


@styled
def sharpness(findings: Record, controls: Record | None = None) -> Figure:
    """Each head's sharpness beside that of nodes re-dealt at random, mean and 90 % of the deals, with its p-value.

    And the sharpness of the same heads of each control, which has null and p-value of its own.
    """
    keys = ("sharpness_H", "null_mean_H", "null_low_H", "null_high_H", "p_value_H")
    names = [f"{encoder['encoder']}.{head}" for encoder in findings["heads"] for head in range(len(encoder[keys[0]]))]
    own, null, low, high, p = (
        np.concatenate([np.asarray(encoder[key]) for encoder in findings["heads"]]) for key in keys
    )
    drawn, axes = figure(6, 1.0 + 0.2 * len(names))
    places = np.arange(len(names))
    axes.plot(own, places, "o", color=BLUE, label="head")
    axes.errorbar(null, places, xerr=[null - low, high - null], fmt="|", color=VERMILION, label="re-dealt, 90 %")
    for (name, control), marker in zip((controls or {}).items(), CONTROL_MARKERS, strict=False):
        sharp = np.concatenate([np.asarray(encoder["sharpness_H"]) for encoder in control["heads"]])
        axes.plot(sharp, places, marker, color=BLACK, alpha=0.5, markersize=5, label=CONTROL_NAMES[name])
    for place, value in enumerate(p):
        axes.text(1.02, place, f"p = {value:.3f}", va="center", fontsize=7, transform=axes.get_yaxis_transform())
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlabel="sharpness", ylabel="encoder.head", xlim=(0, None))
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return drawn


@styled
def accuracy_by_share(comparison: Record) -> Figure:
    """Accuracy after the fine-tuning against the share kept: mean of the seeds, lowest to highest as a band."""
    drawn, axes = figure(8, 4.2)
    by_choice: dict[str, list[Any]] = {}
    for result in comparison["results"]:
        by_choice.setdefault(result["mask_by"], []).append(result)
    for mask_by, results in by_choice.items():
        if mask_by == DENSE:
            axes.axhline(100 * np.mean(results[0]["accuracies"]), color=BLACK, linewidth=0.8, linestyle=":")
            axes.annotate(
                "dense",
                (1, 100 * np.mean(results[0]["accuracies"])),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
            )
            continue
        colour, marker = MASK_STYLES[mask_by.removeprefix(GRADUAL)]
        shares = [100 * result["kept"] for result in results]
        percents = [100 * np.asarray(result["accuracies"]) for result in results]
        axes.plot(
            shares,
            [p.mean() for p in percents],
            marker + ("--" if mask_by.startswith(GRADUAL) else "-"),
            color=colour,
            label=mask_by,
            linewidth=2 if mask_by == ANDC else 1,
        )
        axes.fill_between(shares, [p.min() for p in percents], [p.max() for p in percents], color=colour, alpha=0.15)
    axes.set(xscale="log", xlabel="connections kept in each masked layer %", ylabel="accuracy %")
    ticks = sorted({round(100 * result["kept"], 1) for result in comparison["results"] if result["mask_by"] == ANDC})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    drawn.legend(frameon=False, title="kept by", loc="outside right upper")
    return drawn


@styled
def accuracy_for_subsets(subsets: Record) -> Figure:
    """Accuracy among a subset's labels against the share of hidden nodes kept, criterion by criterion."""
    drawn, axes = figure(8, 4.2)
    dense = 100 * subsets["dense_accuracy"]
    axes.axhline(dense, color=BLACK, linewidth=0.8, linestyle=":")
    axes.annotate("all nodes", (1, dense), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    by_criterion: dict[str, list[Any]] = {}
    for result in subsets["results"]:
        by_criterion.setdefault(result["criterion"], []).append(result)
    for (colour, marker), (criterion, results) in zip(STYLES, by_criterion.items(), strict=False):
        shares = [100 * result["share"] for result in results]
        axes.plot(shares, [100 * result["accuracy"] for result in results], marker + "-", color=colour, label=criterion)
        low, high = ([100 * result[end] for result in results] for end in ("low", "high"))
        axes.fill_between(shares, low, high, color=colour, alpha=0.12)
    axes.set(xlabel="hidden nodes kept in each encoder %", ylabel="accuracy among the subset %")
    drawn.legend(frameon=False, title="kept by", loc="outside right upper")
    return drawn


@styled
def label_changes(changes_K: Sequence[float], label_names: Sequence[str], title: str) -> Figure:
    """Labels that lost and gained most, in points of accuracy.

    Args:
        changes_K: of every label's accuracy, as a share of 1.
    """
    ordered = sorted(zip(label_names, changes_K, strict=True), key=lambda change: change[1])
    few = len(ordered) <= 2 * MOST_CHANGES
    chosen = ordered if few else [*ordered[:MOST_CHANGES], *ordered[-MOST_CHANGES:]]
    drawn, axes = figure(6, 0.9 + LABEL_INCHES * 1.2 * len(chosen))
    values = [100 * change for _, change in chosen]
    axes.barh(range(len(chosen)), values, color=[VERMILION if value < 0 else BLUE for value in values])
    axes.set_yticks(range(len(chosen)), short_names([name for name, _ in chosen]))
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set(xlabel="points of accuracy", title=title)
    return drawn


@styled
def histograms(findings: Record, encoder: int) -> Figure:
    """How many clusters and how much noise the nodes of one encoder have."""
    drawn, pair = figure(7, 2.8, 2)
    axes: Axes
    for axes, key, name in zip(pair, ("nodes_by_clusters", "nodes_by_noise"), ("clusters", "noise"), strict=True):
        for kind, colour in KINDS.items():
            [tap] = [tap for tap in findings["tap_points"] if (tap["encoder"], tap["kind"]) == (encoder, kind)]
            counts = np.asarray(tap[key])
            edges = np.unique(np.linspace(0, len(counts), min(len(counts), 24) + 1).round().astype(int))
            sums = [100 * counts[low:high].sum() / counts.sum() for low, high in pairwise(edges)]
            axes.stairs(sums, edges, color=colour, label=kind.replace("_", " "))
        axes.set(xlabel=f"{name} of a node", ylabel="nodes %")
    pair[1].legend(frameon=False, loc="upper right")
    return drawn


@styled
def accuracy_by_latency(bench: Bench, threads: int) -> Figure:
    """Validation accuracy against the time for one image, a panel for each batch size; hollow marks are dense models.

    Bars are quartiles over the rounds. Variants whose accuracy is not known are not drawn.
    """
    sizes = batches(bench)
    drawn, panels = figure(1.6 + 2.9 * len(sizes), 3.6, len(sizes), squeeze=False, sharey=True)
    kinds = list(dict.fromkeys((variant.engine, variant.precision) for variant in bench.variants))
    styles = dict(zip(kinds, STYLES, strict=False))
    for axes, batch in zip(panels[0], sizes, strict=True):
        for variant in bench.variants:
            if not variant.HasField("validation_accuracy"):
                continue
            timed = timed_at(variant, threads, batch)
            low, middle, high = (
                1000 * value / batch
                for value in (timed.seconds_quartile_low, timed.seconds, timed.seconds_quartile_high)
            )
            colour, marker = styles[variant.engine, variant.precision]
            axes.errorbar(
                [middle],
                [100 * variant.validation_accuracy],
                xerr=[[middle - low], [high - middle]],
                fmt=marker,
                color=colour,
                markerfacecolor="white" if variant.model == "dense" else colour,
                label=variant_title(variant),
            )
        axes.set(title=f"batch {batch}", xlabel="ms an image", xlim=(0, None))
    panels[0][0].set_ylabel("validation accuracy %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, frameon=False, loc="outside right upper")
    drawn.suptitle(f"{bench.machine.processor}, {threads} thread{'s' if threads > 1 else ''}", fontsize=9)
    return drawn
