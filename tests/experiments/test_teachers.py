"""A teacher, fine-tuned, exported and recorded."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
import teachers
import torch
from efficientnet import EfficientNetLite0
from headwise_exporter.data.augmentation import AugmentationSettings
from headwise_exporter.data.base import Dataset, DatasetSettings, Split
from headwise_exporter.data.images import split_images
from headwise_exporter.training.teacher_files import OnnxTeacher, TeacherFile

NAMES = ("dark", "light")
SMALL = teachers.FineTuning(
    size=32,
    augmentation=AugmentationSettings(flip=0.5),
    views=2,
    read_out_images=16,
    epochs=1,
    frozen_blocks=15,
    batch_size=8,
)


def split(images: int, seed: int) -> Split:
    """Dark and light photos of noise, 16 px."""
    labels_N = np.arange(images) % 2
    noise_NYXC = np.random.default_rng(seed).integers(0, 100, (images, 16, 16, 3))
    return Split((noise_NYXC + 150 * labels_N[:, None, None, None]).astype(np.uint8), labels_N, np.arange(images))


@pytest.fixture
def source() -> Dataset:
    """32 training and 8 validation and test photos."""
    splits = [split(images, seed) for seed, images in enumerate((32, 8, 8))]
    return Dataset("shades", DatasetSettings("shades"), "random", NAMES, (0.5,) * 3, (0.3,) * 3, *splits)


@pytest.fixture
def network() -> EfficientNetLite0:
    """With random weights."""
    torch.manual_seed(0)
    return EfficientNetLite0(2)


def test_teacher_is_exported_and_recorded(
    source: Dataset, network: EfficientNetLite0, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph describes itself, and is as accurate as the record says."""
    monkeypatch.setitem(teachers.SETTINGS, "flowers102", SMALL)
    monkeypatch.setattr(teachers, "dataset", lambda name, data_dir, size: source)
    monkeypatch.setattr(teachers, "pretrained", lambda labels: network)
    out = tmp_path / "teacher.onnx"
    done = support.script(
        teachers.main, "flowers102", out, "--epochs", "2", "--test", "--threads", "1", "--results", tmp_path
    )
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "flowers102/teacher.json").read_text("utf-8"))
    assert len(record["accuracy_after_epochs"]) == record["settings"]["epochs"] == 2
    assert (record["validation_images"], record["test"]["images"]) == (8, 8)
    teacher = OnnxTeacher(TeacherFile(str(out)), NAMES, 3)
    assert teacher.size == 32
    test = split_images(source, "test")
    unit_BCYX = torch.nn.functional.interpolate(
        test.images_NYXC.permute(0, 3, 1, 2) / 255, (32, 32), mode="bilinear", align_corners=False
    )
    right = int((teacher.logits(unit_BCYX).argmax(1) == test.labels_N).sum())
    assert right == record["test"]["correct"]


def test_frozen_blocks_and_statistics_stay(source: Dataset, network: EfficientNetLite0, tmp_path: Path) -> None:
    """Later blocks learn."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    data = split_images(source, "train")
    teachers.fine_tune(network, data, split_images(source, "validation"), SMALL, 0.5, tmp_path / "resume.pt")
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(("_blocks.15.", "_conv_head", "_bn1", "_fc")) for name in changed)
    assert not any("running" in name for name in changed)


def test_interrupted_fine_tuning_goes_on(
    source: Dataset, network: EfficientNetLite0, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last whole epoch, to the same weights; that of other settings is not taken."""
    train_data, validation = split_images(source, "train"), split_images(source, "validation")
    settings, resume = replace(SMALL, epochs=2), tmp_path / "resume.pt"
    begun, other = copy.deepcopy(network), copy.deepcopy(network)
    torch.manual_seed(1)
    whole = teachers.fine_tune(network, train_data, validation, settings, 0.5, tmp_path / "whole.pt")

    evaluate, evaluated = teachers.accuracy, list[float]()

    def interrupted(*arguments: Any) -> float:
        if evaluated:
            raise KeyboardInterrupt
        evaluated.append(evaluate(*arguments))
        return evaluated[0]

    monkeypatch.setattr(teachers, "accuracy", interrupted)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        teachers.fine_tune(begun, train_data, validation, settings, 0.5, resume)
    monkeypatch.setattr(teachers, "accuracy", evaluate)
    assert teachers.state_of(resume, replace(settings, epochs=3)) is None
    resumed = teachers.fine_tune(other, train_data, validation, settings, 0.0, resume)
    assert resumed == whole
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_weights_of_the_graph_are_in_half_precision(network: EfficientNetLite0, tmp_path: Path) -> None:
    """The file is half as large, and its logits are those of the network."""
    teachers.export(network, NAMES, 32, tmp_path / "teacher.onnx")
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    assert (tmp_path / "teacher.onnx").stat().st_size < 2.3 * values


def test_read_out_alone_learns_first(source: Dataset, network: EfficientNetLite0) -> None:
    """From the features of a few views."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    teachers.fit_read_out(network, split_images(source, "train"), replace(SMALL, views=1))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"_fc.weight", "_fc.bias"}


def test_unknown_data_set_is_refused(tmp_path: Path) -> None:
    """The known ones are listed."""
    done = support.script(teachers.main, "digits", tmp_path / "teacher.onnx")
    assert done.exit_code == 2
    assert "flowers102, cifar100" in done.output
