"""Read a bundle's manifest, check its files, and compare what its graphs give with what they must give.

The format is declared in `proto/headwise/v1/bundle.proto`. A bundle is whole when its manifest parses, its
`format_version` is known and every file it lists is there with the size and sha256 it states. Its graphs compute what
they should when they give the golden set on the engine that runs them, and when the parts of the exact split add up to
the logits. The exporter writes bundles and the server loads them; both check them here.

Shape suffixes: N images, K labels.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from headwise.v1.bundle_pb2 import Bundle, File

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
CLASSIFY_GRAPH = "classify.onnx"
EXPLAIN_GRAPH = "explain.onnx"
GOLDEN_SET = "golden.npz"
REQUIRED_FILES = (CLASSIFY_GRAPH, EXPLAIN_GRAPH, GOLDEN_SET)

Outputs = Mapping[str, NDArray[Any]]  # of a graph, by name


class BundleError(Exception):
    """A bundle is missing, damaged or of a format this release does not know."""


def file_sha256(path: Path) -> str:
    """Lower-case hexadecimal sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> Bundle:
    """Parse `folder/manifest.json`.

    Raises:
        BundleError: no manifest, not a manifest, or a format version other than `FORMAT_VERSION`.
    """
    path = folder / MANIFEST
    try:
        # Unknown fields are ignored so that a newer manifest is refused for its version, by name.
        bundle = json_format.Parse(path.read_text("utf-8"), Bundle(), ignore_unknown_fields=True)
    except FileNotFoundError:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}. Make one with `exporter build`.") from None
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not a bundle manifest: {error}. Export the model again.") from error
    if bundle.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {bundle.format_version}; this release of headwise reads version "
            f"{FORMAT_VERSION}. Upgrade headwise, or export the model again with this release."
        )
    return bundle


def write_manifest(bundle: Bundle, folder: Path) -> None:
    """Write `folder/manifest.json` in proto3 JSON with the field names of the proto file."""
    text = json_format.MessageToJson(
        bundle, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def check_files(folder: Path, bundle: Bundle) -> None:
    """Check that every file of the manifest is there, with the size and sha256 it states.

    Raises:
        BundleError: names every missing, resized or altered file, and any path that leaves the folder.
    """
    problems = [problem for entry in bundle.files if (problem := _problem(folder, entry))]
    listed = {entry.path for entry in bundle.files}
    problems += [f"{name}: not listed in the manifest" for name in REQUIRED_FILES if name not in listed]
    if problems:
        raise BundleError(f"{folder} is damaged: {'; '.join(problems)}. Copy or export the bundle again.")


def _problem(folder: Path, entry: File) -> str | None:
    relative = PurePosixPath(entry.path)
    if relative.is_absolute() or ".." in relative.parts:
        return f"{entry.path}: expected a path inside the bundle"
    path = folder / relative
    if not path.is_file():
        return f"{entry.path}: missing"
    size_bytes = path.stat().st_size
    if size_bytes != entry.size_bytes:
        return f"{entry.path}: expected {entry.size_bytes} bytes, found {size_bytes}"
    if file_sha256(path) != entry.sha256:
        return f"{entry.path}: its sha256 is not the one in the manifest"
    return None


def read_golden_set(folder: Path) -> dict[str, NDArray[Any]]:
    """`images`, uint8 (N, height, width, channels), and every output that explain.onnx must give for them.

    Raises:
        OSError, ValueError: no such file, or not a golden set.
    """
    with np.load(folder / GOLDEN_SET, allow_pickle=False) as file:
        return dict(file)


def other_part_names(bundle: Bundle) -> list[str]:
    """The parts of the exact split that are no heads, in the order of an explanation's rows."""
    encoders = range(len(bundle.architecture.pruned_encoders))
    return ["embedding", *(f"encoders.{encoder}.feed_forward" for encoder in encoders), "biases"]


def golden_differences(outputs: Outputs, golden: Outputs) -> dict[str, float]:
    """Largest absolute difference of each output to the golden set; nan where an output has one."""
    return {name: float(np.abs(value - golden[name]).max(initial=0.0)) for name, value in outputs.items()}


def completeness_residuals(outputs: Outputs) -> NDArray[np.float64]:
    """Largest |sum of all parts - logit| over the labels, for each image (N,); summed in float64.

    Args:
        outputs: of explain.onnx.
    """
    total_NK = outputs["embedding"].astype(np.float64) + outputs["biases"]
    for name in ("heads", "feed_forwards"):
        total_NK += outputs[name].sum(1, dtype=np.float64)
    residuals_N: NDArray[np.float64] = np.abs(total_NK - outputs["logits"]).max(1)
    return residuals_N
