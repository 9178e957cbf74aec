"""Bundles are verified before they are served, and their files are not used afterwards."""

import logging
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import support
from headwise import Client
from headwise.bundle import BundleError, file_sha256, read_manifest, write_manifest
from headwise_server import loading
from headwise_server.engines import Engine, EngineError, Outputs, Precision, Session, create
from headwise_server.errors import NotInBundle
from headwise_server.loading import LoadSettings
from headwise_server.models import Model

SECONDS = support.LONG_SECONDS


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A bundle to change."""
    return Path(shutil.copytree(repository, tmp_path / "models")) / "digits" / "1"


def load(folder: Path, engine: Engine | None = None, precision: Precision | Literal["auto"] = "f32") -> Model:
    """The model of a bundle, on ONNX Runtime unless another engine is given."""
    return loading.load(folder, LoadSettings(engine or create("onnxruntime"), precision, max_batch=4))


class Biased:
    """A session that runs the real one and then adds to one output, as a miscompiled engine might.

    float32 takes some milliseconds more than it needs, so that what passes beside it is chosen.
    """

    def __init__(self, path: Path, precision: Precision, streams: int, cache: Path, error: float) -> None:
        self.inner = create("onnxruntime").open_session(path, "f32", streams, cache)
        self.precision, self.error = precision, error

    def run(self, images_NYXC: np.ndarray, **others: np.ndarray) -> Outputs:
        """The real outputs with an error in the first label of every image."""
        time.sleep(0.01 if self.precision == "f32" else 0.0)
        outputs = self.inner.run(images_NYXC, **others)
        outputs["logits"] = outputs["logits"] + self.error * np.eye(10, dtype=np.float32)[0]
        return outputs


class Doubled:
    """A session that gives twice one of its outputs."""

    def __init__(self, inner: Session, output: str) -> None:
        self.inner, self.output, self.precision = inner, output, inner.precision

    def run(self, images_NYXC: np.ndarray, **others: np.ndarray) -> Outputs:
        """The real outputs but for that one."""
        outputs = self.inner.run(images_NYXC, **others)
        return outputs | {self.output: 2 * outputs[self.output]}


def biased_engine(full: float, reduced: float) -> Engine:
    """An engine with an error in float32 and another in bf16."""
    return Engine(
        "biased",
        lambda *arguments: Biased(*arguments, full if arguments[1] == "f32" else reduced),
        lambda: "bf16",
    )


def test_bundle_is_loaded_by_name_and_version(bundle: Path) -> None:
    """A model says which files it is: the sha256 of its manifest."""
    model = load(bundle)
    served = model.served(model.classify)
    assert (served.name, served.version, served.engine, served.precision) == ("digits", "1", "onnxruntime", "f32")
    assert served.sha256 == file_sha256(bundle / "manifest.json")


def test_bundle_of_an_older_release_is_served_without_maps(copy: Path) -> None:
    """Its graphs are the two that it has; what needs the others is refused with the reason."""
    manifest = read_manifest(copy)
    for graph in ("maps.onnx", "silenced.onnx"):
        (copy / graph).unlink()
    support.rehash(copy, manifest)
    model = load(copy)
    for graph in ("maps.onnx", "silenced.onnx"):
        with pytest.raises(NotInBundle, match=f"with {graph}, found it without: its bundle was"):
            model.graph(graph)


def test_picture_that_the_manifest_does_not_list_is_not_served(copy: Path) -> None:
    """A bundle whose parts do not fit together is refused, as with any other file."""
    manifest = read_manifest(copy)
    assert load(copy).head_samples == (copy / manifest.head_samples.path).read_bytes()
    manifest.head_samples.path = "/etc/passwd"
    support.rehash(copy, manifest)
    with pytest.raises(BundleError, match="expected the picture of the head_samples, /etc/passwd, among"):
        load(copy)


def test_graph_of_maps_that_does_not_pass_is_left_out(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Maps that do not add up: all else is served, the log says why, and so does each refusal."""

    def open_session(path: Path, precision: Precision, streams: int, cache: Path) -> Session:
        session = create("onnxruntime").open_session(path, precision, streams, cache)
        return Doubled(session, "head_maps") if path.name == "maps.onnx" else session

    with caplog.at_level(logging.WARNING):
        model = load(bundle, Engine("doubled", open_session, lambda: None))
    model.graph("silenced.onnx")
    assert "requests that need it are refused" in caplog.text
    with pytest.raises(NotInBundle, match=r"it does not pass here: .* golden set differs by"):
        model.graph("maps.onnx")


@pytest.mark.parametrize("name", ["classify.onnx", "explain.onnx", "weights.bin", "golden.npz"])
def test_flipped_byte_is_not_served(copy: Path, name: str) -> None:
    """One altered byte in any file: refused, the file named."""
    path = copy / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: its sha256 is not the one in the manifest"):
        load(copy)


def test_missing_file_is_not_served(copy: Path) -> None:
    """A bundle that was copied in part: refused, the file named."""
    (copy / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: missing"):
        load(copy)


def test_newer_manifest_is_not_served(copy: Path) -> None:
    """A bundle of a later release: refused by its version."""
    manifest = read_manifest(copy)
    manifest.format_version = 99
    write_manifest(manifest, copy)
    with pytest.raises(BundleError, match="format version 99"):
        load(copy)


def test_bundle_in_the_wrong_folder_is_not_served(copy: Path) -> None:
    """Name and version of the manifest must be those of the folders, or a reply would name another model."""
    with pytest.raises(BundleError, match="says that it is digits version 1"):
        load(copy.rename(copy.with_name("7")))


@pytest.mark.parametrize("version", ["final", "0", "-1", "1.0", "²"])
def test_version_that_is_no_number_is_not_served(copy: Path, version: str) -> None:
    """Versions are compared as numbers."""
    folder = copy.rename(copy.with_name(version))
    manifest = read_manifest(folder)
    manifest.version = version
    write_manifest(manifest, folder)
    with pytest.raises(BundleError, match=f"expected a positive integer as version, found '{version}'"):
        load(folder)


def test_engine_that_computes_something_else_is_not_served(bundle: Path) -> None:
    """Whole files are not enough: this machine's engine must give the golden outputs."""
    with pytest.raises(EngineError, match=r"golden set differs by 0.01, tolerance 0.0001"):
        load(bundle, biased_engine(full=0.01, reduced=0.0))


def test_reduced_precision_that_fails_is_not_used_and_the_log_says_so(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Classify runs in f32 where bf16 misses the golden set; Explain is always f32."""
    with caplog.at_level(logging.WARNING):
        model = load(bundle, biased_engine(full=0.0, reduced=9.0), "auto")
    assert (model.classify.precision, model.explain.precision) == ("f32", "f32")
    assert "in bf16: golden set differs by 9, tolerance" in caplog.text
    assert "; Classify runs in another precision" in caplog.text


def test_reduced_precision_must_keep_every_first_label(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Within tolerance is not enough if a golden image changes its label."""
    with np.load(bundle / "golden.npz") as file:
        logits = file["logits"]
    gap = float((logits.max(1) - logits[:, 0])[logits.argmax(1) != 0].min()) + 1e-3
    tolerance = read_manifest(bundle).golden_tolerance_reduced
    assert gap < tolerance, "no golden image is close enough to the first label for this test"
    with caplog.at_level(logging.WARNING):
        model = load(bundle, biased_engine(full=0.0, reduced=gap), "auto")
    assert model.classify.precision == "f32"
    assert "change their first label" in caplog.text


def test_reduced_precision_that_passes_is_used_for_classify_alone(bundle: Path) -> None:
    """bf16 for Classify, f32 for Explain, whose tolerance is beyond bf16; f32 for both where it is asked for."""
    engine = biased_engine(full=0.0, reduced=0.0)
    model = load(bundle, engine, "auto")
    assert (model.classify.precision, model.explain.precision) == ("bf16", "f32")
    assert load(bundle, engine, "f32").classify.precision == "f32"
    assert load(bundle, replace(engine, reduced_precision=lambda: None), "auto").classify.precision == "f32"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_files_changed_in_place_change_no_answer(copy: Path, engine: str) -> None:
    """A server that has loaded a bundle needs none of its files: overwritten, cut off or gone, it answers as before."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    weights = copy / "weights.bin"
    arguments = ["--engine", engine, "--precision", "f32"]
    with (
        support.running_server(copy.parent.parent, arguments) as running,
        Client(running.address, timeout_seconds=SECONDS) as client,
    ):
        client.wait_until_ready(SECONDS)
        [before] = client.explain([image])
        maps = Path(f"/proc/{running.process.pid}/maps").read_text()
        assert str(copy) not in maps, "a file of the bundle is mapped"
        with weights.open("r+b") as stream:
            stream.write(np.random.default_rng(1).bytes(weights.stat().st_size))
        [overwritten] = client.explain([image])
        [classified] = client.classify([image])
        np.testing.assert_array_equal(overwritten.logits_K, before.logits_K)
        np.testing.assert_allclose(classified.logits_K, before.logits_K, atol=1e-4)
        os.truncate(weights, 0)
        assert len(client.classify([image] * 20)) == 20
        shutil.rmtree(copy)
        [removed] = client.explain([image])
        np.testing.assert_array_equal(removed.logits_K, before.logits_K)


def test_private_copy_is_gone_once_a_bundle_is_loaded(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it could not be loaded; nothing of it stays on the disk."""
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    load(copy)
    assert list(private.iterdir()) == []
    with pytest.raises(EngineError, match=f"{copy / 'classify.onnx'} on biased in f32: golden set differs by 1"):
        load(copy, biased_engine(full=1.0, reduced=0.0))
    assert list(private.iterdir()) == []


ENDLESS_RUN = """
import time
from headwise_server.cli import main
from headwise_server.engines.onnxruntime import OnnxRuntimeSession

OnnxRuntimeSession.run = lambda self, images: time.sleep(1e6)
main()
"""


def test_private_copy_is_gone_when_the_server_is_stopped_while_it_loads(bundle: Path, tmp_path: Path) -> None:
    """It does not wait for a load that hangs, and leaves nothing behind."""
    arguments, environment = ["--engine", "onnxruntime"], {"TMPDIR": str(tmp_path)}
    with support.running_server(bundle.parent.parent, arguments, code=ENDLESS_RUN, environment=environment) as running:
        support.wait_until(lambda: list(tmp_path.glob("headwise-*/weights.bin")))
        assert running.stop() == 0
    assert list(tmp_path.glob("headwise-*")) == []


def test_engine_keeps_what_it_builds_under_the_sha256_of_the_bundle(copy: Path) -> None:
    """In the bundle's folder: another bundle in its place finds nothing of it."""
    real, caches = create("onnxruntime"), list[Path]()

    def open_session(graph: Path, precision: Precision, streams: int, cache: Path) -> Session:
        caches.append(cache)
        return real.open_session(graph, precision, streams, cache)

    model = load(copy, replace(real, open_session=open_session))
    assert set(caches) == {copy / "engines" / model.sha256[:16]}


def test_no_room_for_the_private_copy_says_so(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that could not be written to is named, and the variable that names another."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(BundleError, match=r"digits/1: no folder for a private copy: .*none.*Name one with TMPDIR"):
        load(bundle)


def with_weights_at(bundle: Path, location: str) -> None:
    """Have a graph look for its weights at another place of the same length, and the manifest state that."""
    graph = (bundle / "classify.onnx").read_bytes()
    assert len(location) == len("weights.bin")
    (bundle / "classify.onnx").write_bytes(graph.replace(b"weights.bin", location.encode()))
    support.rehash(bundle, read_manifest(bundle))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("location", ["../leak.bin", "/dev/./zero", "unlisted.bi"])
def test_graph_reads_no_weights_beside_those_of_the_manifest(copy: Path, engine: str, location: str) -> None:
    """A graph that refers to a file outside the bundle, or to one that the manifest does not list, is not served."""
    (copy / "unlisted.bi").write_bytes(b"")
    with_weights_at(copy, location)
    manifest = read_manifest(copy)
    for path in (copy.parent / "leak.bin", copy / "unlisted.bi"):
        shutil.copyfile(copy / "weights.bin", path)
    del manifest.files[[entry.path for entry in manifest.files].index("unlisted.bi")]
    write_manifest(manifest, copy)
    with pytest.raises(EngineError, match=f"{copy / 'classify.onnx'} on {engine} in f32"):
        load(copy, create(engine))


def test_symbolic_link_out_of_the_bundle_is_not_followed(copy: Path) -> None:
    """Even to a file of the right content; within the bundle, links are files."""
    (copy / "weights.bin").rename(copy / "real.bin")
    (copy / "weights.bin").symlink_to("real.bin")
    load(copy)
    (copy / "real.bin").rename(copy.parent / "real.bin")
    (copy / "weights.bin").unlink()
    (copy / "weights.bin").symlink_to("../real.bin")
    with pytest.raises(BundleError, match=r"weights\.bin: expected a file inside the bundle, found a symbolic link"):
        load(copy)


@pytest.mark.parametrize("name", ["manifest.json", "golden.npz"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "endless"])
def test_what_is_no_file_is_not_read(copy: Path, name: str, kind: str) -> None:
    """A folder, a pipe that nobody writes to, or a device in a file's place: refused at once."""
    (copy / name).unlink()
    match kind:
        case "folder":
            (copy / name).mkdir()
        case "pipe":
            os.mkfifo(copy / name)
        case "endless":
            (copy / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=f"{name}.*(expected a file|cannot be read: Is a directory)"):
        load(copy)
