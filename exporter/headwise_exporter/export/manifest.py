"""A bundle's manifest, from models and measurements.

A run has three models: dense, masked (the dense one under masks) and pruned, which is the one that a bundle serves.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from headwise.bundle import FORMAT_VERSION
from headwise.v1 import bundle_pb2 as pb
from numpy.typing import NDArray

from headwise_exporter.data.base import Dataset
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.export.golden import tolerance_reduced
from headwise_exporter.model.anatomy import HEADS, TapPoint
from headwise_exporter.model.cct import CCT, count_parameters
from headwise_exporter.model.config import EncoderShape, count_macs
from headwise_exporter.nodes.heads import HeadExpertise, expertise
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.nodes.snp import NodeMeasurement, Probe, statistics
from headwise_exporter.nodes.summary import summarise
from headwise_exporter.progress import Count, uncounted
from headwise_exporter.pruning.compaction import KeptUnits
from headwise_exporter.training.evaluation import evaluate, wilson_interval

EVALUATED_MODELS = 3  # dense, masked, pruned
GOLDEN_TOLERANCE = 1e-4  # absolute, float32
COMPLETENESS_TOLERANCE = 1e-4
LIBRARIES = ("headwise", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class MeasuredModel:
    """A model, and its nodes as measured on the validation images."""

    model: CCT
    measurements: Measurements

    def head_taps(self) -> dict[int, TapPoint]:
        """The tap point of the heads of each encoder that has any, by the encoder, in the order of the forward pass."""
        taps = self.model.tap_points()
        return {tap.encoder: tap for tap in taps if tap.kind == HEADS and tap.encoder is not None}

    def head_probes(self) -> list[Probe]:
        """The probes of these, in the same order."""
        return [self.measurements.probes[tap.name] for tap in self.head_taps().values()]


@dataclass(frozen=True)
class BundleContents:
    """What a bundle is made from."""

    dense: MeasuredModel
    masked: CCT
    pruned: MeasuredModel
    pruning: pb.PruningProvenance
    kept: KeptUnits
    dataset: Dataset
    test_data: LabelledImages
    seed: int  # of the training
    report: Callable[[pb.Bundle], str]  # HTML page, with what the manifest says; its list of files is empty still
    specialisation: pb.Specialisation | None = None  # of a model for some labels of another one's
    pictures: bool = True  # whether it may hold validation images


def tap_point_metrics(name: str, node: NodeMeasurement, threshold: float) -> pb.TapPointMetrics:
    """N_c, C_s, n and the signal-to-noise ratios of one tap point (definitions: `nodes.summary`)."""
    summary = asdict(summarise(statistics(node, threshold)))
    return pb.TapPointMetrics(
        name=name,
        nodes=node.weight_KN.shape[1],
        probe_accuracy=node.accuracy(),
        probe_accuracy_interval=wilson_interval(node.correct, node.images),
        **{figure: value for figure, value in summary.items() if value is not None},
    )


def kept_share(pruning: pb.PruningProvenance) -> float:
    """Share of the connections under masks that they keep; 1 without masks."""
    connections = sum(layer.connections for layer in pruning.layer_masks)
    return sum(layer.kept for layer in pruning.layer_masks) / connections if connections else 1.0


def metrics(contents: BundleContents, on_images: Count = uncounted) -> pb.Metrics:
    """All figures of the manifest; the one place that looks at the test images, once for each of the three models."""
    dense, pruned = contents.dense, contents.pruned
    result = pb.Metrics(
        test_images=len(contents.test_data),
        kept_connections=kept_share(contents.pruning),
        parameters_dense=count_parameters(dense.model),
        parameters_pruned=count_parameters(pruned.model),
        macs_dense=count_macs(dense.model.config),
        macs_pruned=count_macs(pruned.model.config),
    )
    for kind, model in {"dense": dense.model, "masked": contents.masked, "pruned": pruned.model}.items():
        evaluation = evaluate(model, contents.test_data, on_images)
        setattr(result, f"{kind}_accuracy", evaluation.accuracy)
        interval = wilson_interval(evaluation.correct, evaluation.images)
        getattr(result, f"{kind}_accuracy_interval").CopyFrom(interval)
    threshold = contents.pruning.threshold
    for measured, tap_points in ((dense, result.tap_points), (pruned, result.pruned_tap_points)):
        tap_points.extend(tap_point_metrics(*item, threshold) for item in measured.measurements.nodes.items())
    return result


def _encoder_expertise(measured: MeasuredModel, tap: TapPoint, threshold: float) -> HeadExpertise:
    return expertise(statistics(measured.measurements.nodes[tap.name], threshold), tap.heads)


def _card(experts: HeadExpertise, index: int, labels: Sequence[str], images: int) -> pb.HeadCard:
    return pb.HeadCard(
        expert_labels=[name for name, expert in zip(labels, experts.expert_K.tolist(), strict=True) if expert == index],
        recognising_nodes=experts.recognising_nodes_HK[index].tolist(),
        sharpness=float(experts.sharpness_H[index]),
        null_sharpness_mean=float(experts.null_mean_H[index]),
        p_value=float(experts.p_value_H[index]),
        null_deals=experts.deals,
        images=images,
    )


def head_cards(
    dense: MeasuredModel, pruned: MeasuredModel, kept: KeptUnits, labels: Sequence[str], threshold: float
) -> list[pb.HeadCard]:
    """The card of every head of the dense model.

    A kept head is described as measured in the pruned model, a removed one as measured in the dense model.

    `row` counts the kept heads, encoder by encoder, as the outputs of `explain.onnx` do.
    """
    cards: list[pb.HeadCard] = []
    row = 0
    pruned_taps = pruned.head_taps()
    for encoder, dense_tap in dense.head_taps().items():
        units, pruned_tap = kept.encoders[encoder], pruned_taps.get(encoder)
        of_dense = _encoder_expertise(dense, dense_tap, threshold)
        of_pruned = _encoder_expertise(pruned, pruned_tap, threshold) if pruned_tap else None
        for head in range(dense_tap.heads):
            removed = head not in units.heads
            if removed or pruned_tap is None or of_pruned is None:
                card = _card(of_dense, head, labels, dense.measurements.nodes[dense_tap.name].images)
            else:
                images = pruned.measurements.nodes[pruned_tap.name].images
                card = _card(of_pruned, units.heads.index(head), labels, images)
                card.row = row
                row += 1
            card.encoder, card.head, card.pruned = encoder, head, removed
            cards.append(card)
    return cards


def _encoder_shapes(model: CCT) -> list[pb.EncoderShape]:
    def message(shape: EncoderShape) -> pb.EncoderShape:
        return pb.EncoderShape(**asdict(shape))

    return [message(shape) for shape in model.config.encoders]


def _image_input(dataset: Dataset) -> pb.ImageInput:
    _, height, width, channels = dataset.train.images_NYXC.shape
    return pb.ImageInput(
        height=height,
        width=width,
        channels=channels,
        color_mode=pb.COLOR_MODE_GRAYSCALE if channels == 1 else pb.COLOR_MODE_RGB,
        resampling=pb.RESAMPLING_BILINEAR,
        framing=pb.FRAMING_CENTER,
        mean=dataset.mean,
        std=dataset.std,
    )


def make_manifest(
    name: str,
    model_version: int,
    contents: BundleContents,
    golden: Mapping[str, NDArray[Any]],
    on_images: Count = uncounted,
) -> pb.Bundle:
    """The manifest, but for the list of files.

    Args:
        golden: outputs of the golden set by name.
        on_images: counts test images, `EVALUATED_MODELS` times.
    """
    dataset, pruning = contents.dataset, contents.pruning
    dense, pruned = contents.dense.model, contents.pruned.model
    labels = dataset.label_names
    return pb.Bundle(
        format_version=FORMAT_VERSION,
        name=name,
        version=str(model_version),
        labels=labels,
        input=_image_input(dataset),
        architecture=pb.Architecture(
            family="cct",
            tokens=dense.config.tokens,
            width=dense.config.width,
            dense_encoders=_encoder_shapes(dense),
            pruned_encoders=_encoder_shapes(pruned),
            dense_filters=dense.config.conv_hidden_channels,
            pruned_filters=pruned.config.conv_hidden_channels,
            convolutions=pb.Convolutions(
                kernel=dense.config.conv_kernel,
                stride=dense.config.conv_stride,
                padding=dense.config.conv_padding,
            ),
            token_grid=pb.TokenGrid(**asdict(dense.config.token_grid)),
        ),
        data=pb.DataProvenance(
            dataset=dataset.name,
            protocol=dataset.protocol,
            train_images=len(dataset.train),
            validation_images=len(dataset.validation),
            test_images=len(dataset.test),
            seed=contents.seed,
        ),
        metrics=metrics(contents, on_images),
        pruning=pruning,
        specialisation=contents.specialisation,
        head_cards=head_cards(contents.dense, contents.pruned, contents.kept, labels, pruning.threshold),
        completeness_tolerance=COMPLETENESS_TOLERANCE,
        golden_tolerance=GOLDEN_TOLERANCE,
        golden_tolerance_reduced=tolerance_reduced(golden["logits"]),
        producers={library: version(library) for library in LIBRARIES},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
