"""The figures of a bundle's manifest, from models and measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from headwise.v1.bundle_pb2 import HeadCard, Interval, Metrics, PruningProvenance, TapPointMetrics

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT, count_macs, count_parameters
from headwise_exporter.model.checkpoints import Measurements
from headwise_exporter.nodes.heads import HeadExpertise, expertise
from headwise_exporter.nodes.snp import NodeMeasurement, statistics
from headwise_exporter.nodes.summary import summarise
from headwise_exporter.pruning.compaction import KeptUnits
from headwise_exporter.training.loop import predict

NAMES = ("dense", "pruned")


def wilson_interval(correct: int, images: int) -> Interval:
    """95 % interval of a share, by Wilson's score."""
    from scipy.stats import binomtest  # slow to import, which `exporter --help` need not wait for

    bounds = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return Interval(low=float(bounds.low), high=float(bounds.high))


def count_correct(model: CCT, data: LabelledImages) -> int:
    """Images whose first label is right."""
    return int((predict(model, data).argmax(1) == data.labels_N).sum())


@dataclass(frozen=True)
class Accuracy:
    """Of a model on one split of a data set."""

    model: str
    split: str
    images: int
    correct: int
    accuracy: float
    interval_low: float  # 95 %, by Wilson's score
    interval_high: float


def accuracy(name: str, model: CCT, split: str, data: LabelledImages) -> Accuracy:
    """Evaluate a model."""
    correct, images = count_correct(model, data), len(data)
    interval = wilson_interval(correct, images)
    return Accuracy(name, split, images, correct, correct / images, interval.low, interval.high)


def tap_point_metrics(name: str, node: NodeMeasurement, threshold: float) -> TapPointMetrics:
    """N_c, C_s, n and the signal-to-noise ratios of one tap point (definitions: `nodes.summary`)."""
    summary = asdict(summarise(statistics(node, threshold)))
    return TapPointMetrics(
        name=name,
        nodes=node.weight_KN.shape[1],
        probe_accuracy=node.accuracy(),
        probe_accuracy_interval=wilson_interval(node.correct, node.images),
        **{figure: value for figure, value in summary.items() if value is not None},
    )


def metrics(
    models: Mapping[str, CCT],
    measurements: Mapping[str, Measurements],
    test_data: LabelledImages,
    pruning: PruningProvenance,
) -> Metrics:
    """All figures of the manifest; the one place that looks at the test images.

    Args:
        models: `dense`, `masked` and `pruned`.
        measurements: of `dense` and `pruned`, on the validation images.
        test_data: the test split.
        pruning: how the models came about.
    """
    images = len(test_data)
    result = Metrics(test_images=images, kept_connections=kept_share(pruning))
    for kind, model in models.items():
        correct = count_correct(model, test_data)
        setattr(result, f"{kind}_accuracy", correct / images)
        getattr(result, f"{kind}_accuracy_interval").CopyFrom(wilson_interval(correct, images))
    for name, tap_points in zip(NAMES, (result.tap_points, result.pruned_tap_points), strict=True):
        setattr(result, f"parameters_{name}", count_parameters(models[name]))
        setattr(result, f"macs_{name}", count_macs(models[name].config))
        nodes = measurements[name].nodes
        tap_points.extend(tap_point_metrics(tap, node, pruning.threshold) for tap, node in nodes.items())
    return result


def kept_share(pruning: PruningProvenance) -> float:
    """Share of the connections under masks that they keep; 1 without masks."""
    connections = sum(layer.connections for layer in pruning.layers)
    return sum(layer.kept for layer in pruning.layers) / connections if connections else 1.0


def _encoder_expertise(model: CCT, measured: Measurements, encoder: int, threshold: float) -> HeadExpertise:
    found = statistics(measured.nodes[f"encoders.{encoder}.heads"], threshold)
    return expertise(found, model.config.encoders[encoder].heads)


def _card(found: HeadExpertise, index: int, labels: Sequence[str], images: int) -> HeadCard:
    return HeadCard(
        expert_labels=[name for name, expert in zip(labels, found.expert_K.tolist(), strict=True) if expert == index],
        recognising_nodes=found.recognising_nodes_HK[index].tolist(),
        sharpness=float(found.sharpness_H[index]),
        null_sharpness_mean=float(found.null_mean_H[index]),
        p_value=float(found.p_value_H[index]),
        null_deals=found.deals,
        images=images,
    )


def head_cards(
    models: Mapping[str, CCT],
    measurements: Mapping[str, Measurements],
    kept: Sequence[KeptUnits],
    labels: Sequence[str],
    threshold: float,
) -> list[HeadCard]:
    """The card of every head of the dense model.

    A kept head is described as measured in the pruned model, a removed one as measured in the dense model.

    `row` counts the kept heads, encoder by encoder, as the outputs of `explain.onnx` do.
    """
    cards: list[HeadCard] = []
    row = 0
    for encoder, units in enumerate(kept):
        found = {name: _encoder_expertise(models[name], measurements[name], encoder, threshold) for name in NAMES}
        for head in range(models["dense"].config.encoders[encoder].heads):
            name = "pruned" if head in units.heads else "dense"
            index = units.heads.index(head) if head in units.heads else head
            card = _card(found[name], index, labels, measurements[name].nodes[f"encoders.{encoder}.heads"].images)
            card.encoder, card.head, card.pruned = encoder, head, name == "dense"
            if not card.pruned:
                card.row = row
                row += 1
            cards.append(card)
    return cards
