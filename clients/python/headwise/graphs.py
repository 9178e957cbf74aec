"""The graphs of a bundle: what they take and give, and how far that is from what it must be.

`proto/headwise/v1/bundle.proto` declares them. The golden set has an array for each input and output, by the same name.

Shape suffixes: N images, Y rows, X columns, C channels, R heads kept, L encoders, K labels, J targets, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwise.v1.bundle_pb2 import Bundle

CLASSIFY_GRAPH = "classify.onnx"
EXPLAIN_GRAPH = "explain.onnx"
MAPS_GRAPH = "maps.onnx"
SILENCED_GRAPH = "silenced.onnx"
SPLIT = ("logits", "heads", "feed_forwards", "embedding", "biases", "head_fields")
INPUTS = {
    CLASSIFY_GRAPH: ("images",),
    EXPLAIN_GRAPH: ("images",),
    MAPS_GRAPH: ("images", "targets"),
    SILENCED_GRAPH: ("images", "silenced"),
}
OUTPUTS = {
    CLASSIFY_GRAPH: ("logits",),
    EXPLAIN_GRAPH: SPLIT,
    MAPS_GRAPH: (*SPLIT, "target_indices", "head_maps", "feed_forward_maps", "embedding_maps"),
    SILENCED_GRAPH: ("silenced_logits",),
}
DTYPES = {"images": np.uint8, "targets": np.int64, "target_indices": np.int64, "silenced": np.bool_}  # else float32
GOLDEN_TARGETS = 3  # of each image; all labels where there are fewer

Arrays = Mapping[str, NDArray[Any]]  # of a graph or a golden set, by name


def graphs_of(manifest: Bundle) -> list[str]:
    """The graphs that a bundle has; those for maps and for silenced heads are not in older ones."""
    present = {CLASSIFY_GRAPH, EXPLAIN_GRAPH, *(entry.path for entry in manifest.files)}
    return [graph for graph in INPUTS if graph in present]


def dtype_of(name: str) -> np.dtype[Any]:
    """Type of an input or an output."""
    return np.dtype(DTYPES.get(name, np.float32))


def array_shapes(manifest: Bundle, images: int, targets: int = GOLDEN_TARGETS) -> dict[str, tuple[int, ...]]:
    """Shape of each input and output of all graphs, by name, for so many images and targets of each."""
    image, labels = manifest.input, len(manifest.labels)
    heads = sum(not card.pruned for card in manifest.head_cards)
    encoders = len(manifest.architecture.pruned_encoders)
    targets, tokens = min(targets, labels), manifest.architecture.tokens
    return {
        "images": (images, image.height, image.width, image.channels),
        "logits": (images, labels),
        "heads": (images, heads, labels),
        "feed_forwards": (images, encoders, labels),
        "embedding": (images, labels),
        "biases": (images, labels),
        "head_fields": (images, heads, labels),
        "targets": (images, targets),
        "target_indices": (images, targets),
        "head_maps": (images, heads, targets, tokens),
        "feed_forward_maps": (images, encoders, targets, tokens),
        "embedding_maps": (images, targets, tokens),
        "silenced": (images, heads),
        "silenced_logits": (images, labels),
    }


def golden_shapes(manifest: Bundle, images: int) -> dict[str, tuple[int, ...]]:
    """Shape of each array of the golden set, by name, for so many images: of the graphs that the bundle has."""
    names = {name for graph in graphs_of(manifest) for name in (*INPUTS[graph], *OUTPUTS[graph])}
    return {name: shape for name, shape in array_shapes(manifest, images).items() if name in names}


def other_part_names(bundle: Bundle) -> list[str]:
    """The parts of the exact split that are no heads, in the order of an explanation's rows."""
    encoders = range(len(bundle.architecture.pruned_encoders))
    return ["embedding", *(f"encoders.{encoder}.feed_forward" for encoder in encoders), "biases"]


def golden_differences(outputs: Arrays, golden: Arrays) -> dict[str, float]:
    """Largest absolute difference of each output to the golden set; nan where an output has one."""
    return {name: float(np.abs(value - golden[name]).max(initial=0.0)) for name, value in outputs.items()}


def variant_failure(logits_NK: NDArray[Any], golden_NK: NDArray[Any], tolerance: float) -> str | None:
    """Why logits in a narrower type are not those of a golden set; None where they are.

    No logit may differ by more than the tolerance, and a golden image may change its first label only where its first
    two logits are no further apart than that: where the float32 model itself is hardly sure.

    Args:
        tolerance: `golden_tolerance` of the variant.
    """
    difference = float(np.abs(logits_NK - golden_NK).max(initial=0.0))
    if not difference <= tolerance:
        return f"golden set differs by {difference:.3g}, tolerance {tolerance:.3g}"
    first_two_NK = np.sort(golden_NK, axis=1)[:, -2:]
    sure_N = first_two_NK[:, -1] - first_two_NK[:, 0] > tolerance
    changed = int((sure_N & (logits_NK.argmax(1) != golden_NK.argmax(1))).sum())
    return f"{changed} golden images of which the float32 model is sure change their first label" if changed else None


def completeness_residuals(outputs: Arrays) -> NDArray[np.float64]:
    """Largest |sum of all parts - logit| over the labels, for each image (N,); summed in float64.

    Args:
        outputs: of explain.onnx.
    """
    total_NK = outputs["embedding"].astype(np.float64) + outputs["biases"]
    for name in ("heads", "feed_forwards"):
        total_NK += outputs[name].sum(1, dtype=np.float64)
    residuals_N: NDArray[np.float64] = np.abs(total_NK - outputs["logits"]).max(1)
    return residuals_N


def map_residuals(outputs: Arrays) -> NDArray[np.float64]:
    """Largest |sum of a map - contribution| over parts and targets, for each image (N,); summed in float64.

    Args:
        outputs: of maps.onnx.
    """
    targets_NJ = outputs["target_indices"]
    maps = {"heads": outputs["head_maps"], "feed_forwards": outputs["feed_forward_maps"]}
    pairs = [(outputs[name], values) for name, values in maps.items()]
    pairs.append((outputs["embedding"][:, None], outputs["embedding_maps"][:, None]))
    residuals_N = np.zeros(len(targets_NJ))
    for parts_NPK, maps_NPJT in pairs:
        contributions_NPJ = np.take_along_axis(parts_NPK, targets_NJ[:, None], 2)
        differences_NPJ = np.abs(maps_NPJT.sum(-1, dtype=np.float64) - contributions_NPJ)
        residuals_N = np.maximum(residuals_N, differences_NPJ.max((1, 2), initial=0.0))
    return residuals_N
