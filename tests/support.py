"""What several tests build on: a small random model, a bundle made by the real exporter, a server in a process."""

import io
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import processes
import torch
from headwise.bundle import read_golden_set, read_manifest, write_manifest
from headwise.graphs import INPUTS
from headwise.v1.bundle_pb2 import Bundle
from headwise_exporter.commands.app import app
from headwise_exporter.commands.console import progress
from headwise_exporter.data.base import Dataset, DatasetSettings, Split
from headwise_exporter.data.datasets import load
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.bundle import list_files, write_bundle
from headwise_exporter.export.graphs import run_on_golden_set
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.export.speed import AT_EXPORT
from headwise_exporter.export.variants import make_variants
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig, EncoderShape, cct
from headwise_exporter.nodes.findings import FindingsSettings
from headwise_exporter.nodes.snp import NodeMeasurement, Probe, ProbeSettings
from headwise_exporter.progress import Advance
from headwise_exporter.pruning.settings import PruneSettings
from headwise_exporter.recipes import ModelSettings, Recipe
from headwise_exporter.stages.build import prune_stage, train_stage
from headwise_exporter.stages.export import bundle_contents
from headwise_exporter.stages.measure import findings_stage, measure_stage
from headwise_exporter.stages.report import report_stage
from headwise_exporter.training.settings import TrainingSettings
from PIL import Image
from processes import LONG_SECONDS
from torch import Tensor
from typer import Typer
from typer.testing import CliRunner, Result


def png(image_YXC: np.ndarray) -> bytes:
    """A grey image as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image_YXC[..., 0]).save(content, "PNG")
    return content.getvalue()


def small_config(depth: int = 2) -> CCTConfig:
    """A CCT for the digits that runs in a millisecond."""
    return cct(image_size=8, channels=1, labels=10, depth=depth, heads=4, width=32, feed_forward=48)


def random_model(config: CCTConfig | None = None, seed: int = 0) -> CCT:
    """A model with weights, biases and norms all random, so that nothing is hidden by a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    model = CCT(config or small_config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def uneven(config: CCTConfig) -> CCTConfig:
    """The same with encoders that differ in every size, as compaction may leave them."""
    shapes = (EncoderShape(3, 8, 4, 40), EncoderShape(2, 4, 8, 24))
    return replace(config, encoders=shapes)


def convolved(config: CCTConfig) -> CCTConfig:
    """The same with two convolutions before the last, for images twice as large: four tokens."""
    return replace(config, image_size=16, conv_hidden_channels=(8, 12))


def emptied(config: CCTConfig) -> CCTConfig:
    """The same with a first encoder without heads and a second one without hidden nodes, as a search may leave them."""
    shapes = (EncoderShape(0, 0, 0, 40), EncoderShape(2, 4, 8, 0))
    return replace(config, encoders=shapes)


SMALL = small_config()
PRUNED_SHAPES = {  # that pruning may leave of a model, by what is particular about them
    "even": SMALL,
    "uneven": uneven(SMALL),
    "convolved": convolved(SMALL),
    "without some sub-blocks": emptied(SMALL),
    "without hidden nodes": replace(SMALL, encoders=(EncoderShape(4, 8, 8, 0),) * 2),
    "with an empty encoder": replace(SMALL, encoders=(SMALL.encoders[0], EncoderShape(0, 0, 0, 0))),
}


def random_probes(model: CCT, seed: int = 0) -> list[Probe]:
    """A probe with random weights, in the model's type, for the heads of each encoder that has any."""
    torch.manual_seed(seed)
    shapes = [shape for shape in model.config.encoders if shape.heads]
    probes = [Probe(shape.heads * shape.value_dim, model.config.labels) for shape in shapes]
    return [probe.to(model.classifier.fc.weight.dtype) for probe in probes]


def random_split(model: CCT) -> ExactSplit:
    """The split of a model, in its type, with random probes."""
    split = ExactSplit(model, random_probes(model), mean=(0.3,), std=(0.4,))
    return split.eval().to(model.classifier.fc.weight.dtype)


def random_means(model: CCT, seed: int = 0) -> dict[int, Tensor]:
    """Random means of the heads of each encoder that has any."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {index: shape.heads * shape.value_dim for index, shape in enumerate(model.config.encoders) if shape.heads}
    return {index: torch.randn(size, generator=generator, dtype=torch.float64) for index, size in sizes.items()}


def random_pixels(config: CCTConfig, count: int = 5, seed: int = 0) -> Tensor:
    """uint8 images (B, Y, X, C) of a model's size."""
    shape = (count, config.image_size, config.image_size, config.channels)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).byte()


def random_images(labels: Tensor, seed: int = 0, side: int = 8) -> LabelledImages:
    """Images of the small model's size, all pixels random, normalised to about mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(labels), side, side, 1), generator=generator, dtype=torch.uint8)
    return LabelledImages(pixels, labels, (0.5,), (0.29,))


def random_nodes(model: CCT, seed: int = 0) -> dict[str, NodeMeasurement]:
    """Every node of every tap point recognises a random set of labels, the first of each tap point none."""
    generator = torch.Generator().manual_seed(seed)
    nodes = {}
    for tap in model.tap_points():
        active_KN = (torch.rand(10, tap.nodes, generator=generator) < 0.2).double()
        active_KN[:, 0] = 0.0
        strength_N = 0.5 + torch.rand(tap.nodes, generator=generator)  # of no consequence
        nodes[tap.name] = NodeMeasurement(active_KN * strength_N, active_KN, correct=1, images=2)
    return nodes


def few_images(dataset: Dataset, images: int) -> Dataset:
    """The data set with at most so many images in its training split."""
    train = dataset.train
    return replace(
        dataset, train=Split(train.images_NYXC[:images], train.labels_N[:images], train.source_indices_N[:images])
    )


def small_recipe() -> Recipe:
    """From digits to a bundle in seconds; what it recognises is beside the point."""
    return Recipe(
        dataset="digits",
        model=ModelSettings(depth=2, heads=4, width=32, feed_forward=48),
        training=TrainingSettings(epochs=3, warm_up_epochs=1, learning_rate=3e-3),
        probes=ProbeSettings(epochs=2),
        findings=FindingsSettings(draws=5),
        prune=PruneSettings(
            layers="both", mask_by="andc", criterion="variance*snp", removal="budget", epochs=1, max_drop_points=100
        ),
    )


def make_run(run: Path) -> Dataset:
    """Carry out all stages before the export; returns the data set."""
    recipe, dataset = small_recipe(), load(DatasetSettings("digits"))
    train_stage(run, recipe, dataset, progress)
    measure_stage(run, recipe.probes, dataset, progress)
    findings_stage(run, recipe.findings, recipe.probes, dataset, progress)
    prune_stage(run, recipe, dataset, progress)
    report_stage(run, lambda: dataset)
    return dataset


def make_bundle(run: Path, repository: Path) -> Path:
    """A bundle `repository/digits/1` by way of the real exporter."""
    contents = bundle_contents(run, make_run(run))
    return write_bundle(contents, repository, "digits", 1, timed=replace(AT_EXPORT, seconds=0.0))


def add_variants(bundle: Path, folder: Path, images: int = 64) -> Path:
    """The bundle `folder/digits/1` like another, with an int8 graph for each engine."""
    copy = Path(shutil.copytree(bundle, folder / "digits" / "1"))
    settings = QuantizationSettings(images=images, max_drop_points=100)
    manifest = read_manifest(copy)
    dataset = load(DatasetSettings("digits"))
    manifest.variants.extend(make_variants(copy, read_golden_set(copy), dataset, settings))
    assert all(variant.accepted for variant in manifest.variants), manifest.variants
    rehash(copy, manifest)
    return copy


def copied_graphs(bundle: Path) -> Callable[..., None]:
    """In place of `export_graphs`, for tests of what comes after it: the graphs of a bundle of the same run."""

    def copy(*arguments: object) -> None:
        for name in (*INPUTS, "weights.bin"):
            content = (bundle / name).read_bytes()
            (cast(Path, arguments[2]) / name).write_bytes(content)

    return copy


@dataclass
class Bar:
    """What a bar of a stage showed."""

    description: str
    total: int | None
    unit: str
    done: int = 0
    resumed: int = 0
    notes: list[str] = field(default_factory=list)

    def advance(self, count: int = 1, note: str | None = None, *, resumed: bool = False) -> None:
        """Count it, and keep the note."""
        self.done += count
        self.resumed += count if resumed else 0
        self.notes += [] if note is None else [note]


class Bars(list[Bar]):
    """A progress that keeps its bars."""

    @contextmanager
    def open(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        """What a stage takes as its `progress`."""
        self.append(Bar(description, total, unit))
        yield self[-1].advance


def run_with_little_room(code: str, limit_bytes: int, *arguments: str) -> processes.Completed:
    """Run Python code in a process whose files cannot grow beyond a limit, as on a full disk."""
    return processes.run(
        [sys.executable, "-c", code, *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )


@dataclass
class ServerProcess:
    """A `headwise-server` in a process of its own."""

    process: processes.Process
    address: str
    log: list[str]

    def stop(self, number: int = signal.SIGTERM, timeout_seconds: float = LONG_SECONDS) -> int:
        """Send a signal and give the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_seconds)


def wait_until(condition: Callable[[], object], timeout_seconds: float = LONG_SECONDS) -> None:
    """Return when the condition holds; fail when it does not in time."""
    give_up = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come to hold"
        time.sleep(0.01)


SERVER = "from headwise_server.cli import main; main()"


def server_command(repository: Path, code: str = SERVER) -> list[str]:
    """What starts a server of a repository."""
    return [sys.executable, "-c", code, "--repository", str(repository)]


@contextmanager
def running_server(
    repository: Path,
    arguments: Sequence[str] = (),
    *,
    code: str = SERVER,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """A server on a free port, which is bound; it may still be loading. Stopped at the end if it still runs."""
    command = [*server_command(repository, code), "--listen", "127.0.0.1:0", *arguments]
    settings = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    log: list[str] = []
    with processes.start(command, stdout=processes.PIPE, stderr=processes.PIPE, env=settings) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            line = process.stdout.readline()
            assert line.startswith("listening on "), f"the server did not start: {line!r} {''.join(log)}"
            server = ServerProcess(process, line.removeprefix("listening on ").strip(), log)
            yield server
            server.stop()
        finally:
            process.kill()
            reader.join()


def exporter(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def script(main: Callable[..., None], *arguments: str | Path) -> Result:
    """Run a script's command in this process."""
    command = Typer()
    command.command()(main)
    return CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


CONVOLUTION_WEIGHTS = 32 * 3 * 3  # the first tensor of weights.bin


def copy_bundle(bundle: Path, repository: Path, name: str = "digits", version: int = 1, scale: float = 1.0) -> Path:
    """A bundle `repository/name/version` like another, but with its first convolution scaled: its logits differ.

    The split of the logits is exact for any weights there. The golden set is what the graphs then give. The bundle is
    written under a name that begins with a dot and renamed, as the exporter does.
    """
    folder = repository / name / f".{version}.partial"
    shutil.copytree(bundle, folder)
    weights = np.fromfile(folder / "weights.bin", np.float32)
    weights[:CONVOLUTION_WEIGHTS] *= np.float32(scale)
    (folder / "weights.bin").write_bytes(weights.tobytes())
    golden = read_golden_set(folder)
    for graph in INPUTS:
        golden |= run_on_golden_set(folder, graph, golden)
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    manifest = read_manifest(folder)
    manifest.name, manifest.version = name, str(version)
    rehash(folder, manifest)
    return folder.rename(repository / name / str(version))


def rehash(folder: Path, manifest: Bundle) -> None:
    """Write a manifest that states the files of the folder as they are."""
    (folder / "manifest.json").unlink(missing_ok=True)
    del manifest.files[:]
    manifest.files.extend(list_files(folder))
    write_manifest(manifest, folder)
