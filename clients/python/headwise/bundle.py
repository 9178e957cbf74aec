"""Read a bundle's manifest, check its files, and compare what its graphs give with what they must give.

The format is declared in `proto/headwise/v1/bundle.proto`. A bundle is whole when its manifest parses, its
`format_version` is known and every file it lists is there with the size and sha256 it states. It is consistent when the
golden set has the sizes that the manifest states. Whether its graphs compute what they should is for `headwise.graphs`.
The exporter writes bundles and the server loads them; both check them here.

A file is read once: the bytes that are hashed are the bytes that are given.
"""

import hashlib
import io
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from headwise.graphs import CLASSIFY_GRAPH, EXPLAIN_GRAPH, MAPS_GRAPH, Arrays, dtype_of, golden_shapes, graphs_of
from headwise.v1.bundle_pb2 import COLOR_MODE_GRAYSCALE, COLOR_MODE_RGB, Bundle, File, Variant

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
GOLDEN_SET = "golden.npz"
REQUIRED_FILES = (CLASSIFY_GRAPH, EXPLAIN_GRAPH, GOLDEN_SET)
MANIFEST_LIMIT_BYTES = 64 * 2**20
GOLDEN_LIMIT_BYTES = 2**30  # unpacked
COLOR_CHANNELS = {COLOR_MODE_GRAYSCALE: 1, COLOR_MODE_RGB: 3}


class BundleError(Exception):
    """A bundle is missing, damaged or of a format this release does not know."""


def file_sha256(path: Path) -> str:
    """Lower-case hexadecimal sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _inside(folder: Path, relative: str) -> Path:
    """The real path of a file in a folder.

    Raises:
        BundleError: it lies elsewhere.
        OSError, ValueError: there is no such file, or cannot be.
    """
    parts = PurePosixPath(relative)
    if not parts.name or parts.is_absolute() or ".." in parts.parts:
        raise BundleError("expected a path inside the bundle")
    path = Path(os.path.realpath(folder / parts, strict=True))  # Path.resolve has errors of its own for circular links
    if not path.is_relative_to(folder.resolve()):
        raise BundleError("expected a file inside the bundle, found a symbolic link out of it")
    return path


def _read(path: Path, limit_bytes: int) -> bytes:
    """A regular file, from one opening.

    Raises:
        BundleError: no regular file, or one that is larger than the limit.
        OSError: it cannot be read.
    """
    # A pipe must not be waited for, and a symbolic link that has taken the file's place must not be followed.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError("expected a file, found something else")
        content = stream.read(min(limit_bytes, status.st_size) + 1)
        if len(content) > limit_bytes:
            raise BundleError(f"expected {limit_bytes} bytes, found {max(status.st_size, len(content))}")
        return content


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def parse_manifest(content: bytes, path: Path) -> Bundle:
    """The manifest in the bytes of a file.

    Args:
        path: of that file, for the error.

    Raises:
        BundleError: not a manifest, or a format version other than `FORMAT_VERSION`.
    """
    try:
        # Unknown fields are ignored so that a newer manifest is refused for its version, by name.
        bundle = json_format.Parse(content.decode("utf-8"), Bundle(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not a bundle manifest: {error}. Export the model again.") from error
    if bundle.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {bundle.format_version}; this release of headwise reads version "
            f"{FORMAT_VERSION}. Upgrade headwise, or export the model again with this release."
        )
    return bundle


def _read_manifest(folder: Path) -> bytes:
    try:
        return _read(_inside(folder, MANIFEST), MANIFEST_LIMIT_BYTES)
    except FileNotFoundError:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}. Make one with `exporter build`.") from None
    except (BundleError, OSError) as error:
        raise BundleError(
            f"{folder / MANIFEST} is not a bundle manifest: {_reason(error)}. Export the model again."
        ) from error


def read_manifest(folder: Path) -> Bundle:
    """Parse `folder/manifest.json`.

    Raises:
        BundleError: no manifest, not a manifest, or a format version other than `FORMAT_VERSION`.
    """
    return parse_manifest(_read_manifest(folder), folder / MANIFEST)


def write_manifest(bundle: Bundle, folder: Path) -> None:
    """Write `folder/manifest.json` in proto3 JSON with the field names of the proto file."""
    text = json_format.MessageToJson(
        bundle, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def _read_listed(folder: Path, entry: File) -> bytes:
    """A file that the manifest lists, with the size and sha256 that it states."""
    content = _read(_inside(folder, entry.path), entry.size_bytes)
    if len(content) != entry.size_bytes:
        raise BundleError(f"expected {entry.size_bytes} bytes, found {len(content)}")
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError("its sha256 is not the one in the manifest")
    return content


def read_files(folder: Path, bundle: Bundle, *, keep: bool = True) -> dict[str, bytes]:
    """Every file of the manifest by its path, each read once: the bytes that were hashed.

    Args:
        keep: give the bytes; False only checks them.

    Raises:
        BundleError: names every missing, resized or altered file, and any path that leaves the folder.
    """
    files, problems, cause = dict[str, bytes](), list[str](), None
    for entry in bundle.files:
        try:
            content = _read_listed(folder, entry)
        except (BundleError, OSError, ValueError) as error:
            problems.append(f"{entry.path}: {_reason(error)}")
            cause = error
        else:
            files[entry.path] = content if keep else b""
    listed = {entry.path for entry in bundle.files}
    problems += [f"{name}: not listed in the manifest" for name in REQUIRED_FILES if name not in listed]
    if problems:
        raise BundleError(f"{folder} is damaged: {'; '.join(problems)}. Copy or export the bundle again.") from cause
    return files


def check_files(folder: Path, bundle: Bundle) -> None:
    """Check that every file of the manifest is there, with the size and sha256 it states.

    Raises:
        BundleError: names every missing, resized or altered file, and any path that leaves the folder.
    """
    read_files(folder, bundle, keep=False)


@dataclass(frozen=True)
class BundleContent:
    """A bundle in memory, as it was hashed."""

    manifest: Bundle
    sha256: str  # of the manifest's file
    files: Mapping[str, bytes]  # by path, that of the manifest among them


def read_bundle(folder: Path) -> BundleContent:
    """The manifest and every file that it lists, each read once.

    Raises:
        BundleError: the bundle is damaged or of an unknown format.
    """
    content = _read_manifest(folder)
    manifest = parse_manifest(content, folder / MANIFEST)
    files = {**read_files(folder, manifest), MANIFEST: content}
    return BundleContent(manifest, hashlib.sha256(content).hexdigest(), files)


def parse_golden_set(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a golden set by name.

    Raises:
        BundleError: not an npz file, or arrays that are objects or of more than `GOLDEN_LIMIT_BYTES`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size_bytes = sum(member.file_size for member in archive.infolist())
            if size_bytes > GOLDEN_LIMIT_BYTES:
                raise BundleError(f"expected at most {GOLDEN_LIMIT_BYTES} bytes when unpacked, found {size_bytes}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            golden = dict(arrays)
        if strange := [name for name, value in golden.items() if not isinstance(value, np.ndarray)]:
            raise BundleError(f"expected arrays, found other files: {', '.join(strange)}")
        return golden
    except Exception as error:  # damaged zip files and headers of arrays raise a dozen kinds
        raise BundleError(f"{GOLDEN_SET} is not a golden set: {error}. Export the model again.") from error


def read_golden_set(folder: Path) -> dict[str, NDArray[Any]]:
    """The inputs of the bundle's graphs and every output that they must give, by name, as `headwise.graphs` has them.

    Raises:
        OSError: no such file.
        BundleError: not a golden set.
    """
    return parse_golden_set((folder / GOLDEN_SET).read_bytes())


def _manifest_problems(manifest: Bundle) -> list[str]:
    """What of the manifest no bundle can have."""
    image, problems = manifest.input, []
    if not manifest.labels:
        problems.append("expected labels, found none")
    if min(image.height, image.width) < 1 or image.channels != COLOR_CHANNELS.get(image.color_mode):
        problems.append(
            f"expected an input of some size, with 1 channel in grey or 3 in colour, found {image.height} x "
            f"{image.width} x {image.channels} in colour mode {image.color_mode}"
        )
    rows = sorted(card.row for card in manifest.head_cards if not card.pruned)
    if rows != list(range(len(rows))):
        problems.append(f"expected a row of its own for each head card that is kept, found rows {rows}")
    grid, tokens = manifest.architecture.token_grid, manifest.architecture.tokens
    if MAPS_GRAPH in graphs_of(manifest) and grid.rows * grid.columns != tokens:
        problems.append(f"expected a token grid of {tokens} tokens, found {grid.rows} x {grid.columns}")
    for name in ("completeness_tolerance", "golden_tolerance", "golden_tolerance_reduced"):
        tolerance = getattr(manifest, name)
        if not (math.isfinite(tolerance) and tolerance > 0):
            problems.append(f"expected a positive {name}, found {tolerance}")
    return problems + _variant_problems(manifest)


def _variant_problems(manifest: Bundle) -> list[str]:
    """What of the variants no bundle can have."""
    listed, problems = {entry.path for entry in manifest.files}, []
    accepted = accepted_variants(manifest)
    if len({(variant.engine, variant.precision) for variant in accepted}) < len(accepted):
        problems.append("expected one accepted variant at most for each engine and precision, found several")
    for variant in accepted:
        if variant.path not in listed:
            problems.append(f"expected an accepted variant among the files, found {variant.path!r}, which is none")
        if not (math.isfinite(variant.golden_tolerance) and variant.golden_tolerance > 0):
            problems.append(f"expected a positive tolerance of {variant.path}, found {variant.golden_tolerance}")
    return problems


def accepted_variants(manifest: Bundle) -> list[Variant]:
    """The variants of `classify.onnx` that the bundle has a graph of."""
    return [variant for variant in manifest.variants if variant.accepted]


def check_consistency(manifest: Bundle, golden: Arrays) -> None:
    """Check that the manifest can be that of a bundle, and that the golden set has the sizes that it states.

    Raises:
        BundleError: names everything that does not fit.
    """
    problems = _manifest_problems(manifest)
    images = golden.get("images")
    expected = golden_shapes(manifest, max(1, len(images) if images is not None and images.ndim else 0))
    problems += [f"{GOLDEN_SET} has no {name}" for name in expected if name not in golden]
    for name, shape in expected.items():
        dtype = dtype_of(name)
        value = golden.get(name)
        if value is not None and (value.shape, value.dtype) != (shape, dtype):
            problems.append(f"expected {name} in {GOLDEN_SET} as {dtype} {shape}, found {value.dtype} {value.shape}")
    if problems:
        raise BundleError(f"the manifest and the golden set do not fit: {'; '.join(problems)}. Export the model again.")
