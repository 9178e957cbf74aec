"""Training on two processes is training on one."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import support
from headwise_exporter import distributed
from PIL import Image

TRAIN = """
import json, pathlib, sys
import support, torch
from dataclasses import asdict
from headwise_exporter import distributed
from headwise_exporter.data.augmentation import AugmentationSettings
from headwise_exporter.model.cct import CCT
from headwise_exporter.progress import silent
from headwise_exporter.training.distillation import DistillationSettings
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings
from headwise_exporter.training.taught_views import Views, taught_views
from headwise_exporter.training.teacher_files import TeacherFile, load_teacher
torch.set_num_threads(1)
with distributed.process_group():
    torch.manual_seed(0)
    model = CCT(support.small_config())
    images, augmentation = int(sys.argv[2]), AugmentationSettings(**json.loads(sys.argv[3]))
    data = support.random_images(torch.arange(images) % 10)
    settings = TrainingSettings(epochs=3, batch_size=16, warm_up_epochs=1, augmentation=augmentation)
    taught = None
    if sys.argv[4] == "taught":
        teacher = load_teacher(TeacherFile("checkpoint:digits"), [str(label) for label in range(10)], (0.5,), (0.3,))
        views = Views(2, images, 16, 0, augmentation)
        with distributed.main_first():
            taught = taught_views(teacher, views, data, DistillationSettings(), "random images", silent)
    result = train(model, data, settings, teacher=taught)
    if distributed.is_main():
        weight = model.classifier.fc.weight.detach().flatten().tolist()
        record = {"processes": distributed.world_size(), "losses": [e.loss for e in result.epochs], "weight": weight}
        pathlib.Path(sys.argv[1]).write_text(json.dumps(record))
"""


EXPORTER = """
import sys
import support
from dataclasses import replace
from headwise_exporter import cli
from headwise_exporter import recipes
recipes.RECIPES["folder"] = lambda: replace(support.small_recipe(), dataset="folder")
cli.main()
"""
# The photos' augmentation: random, so that two processes draw otherwise than one.
ALL = {"crop_area_min": 0.6, "flip": 0.5, "rand_augment_operations": 2, "erasing": 0.5, "mixup": 0.8, "cutmix": 1.0}
# The dashes keep torchrun from taking `--run` for an option of its own.
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--")


def run(*arguments: str | Path, **environment: str) -> str:
    """Run Python with the tests' helpers on its path; give what it printed."""
    helpers = {"PYTHONPATH": str(Path(support.__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    settings = {**os.environ, **helpers, **environment}
    process = processes.run(command, env=settings)
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


def trained(
    folder: Path, launcher: tuple[str, ...], images: int, *, taught: bool = False, **augmentation: float
) -> dict[str, Any]:
    """Train by a launcher, and give the processes, losses and classifier head that the main process records."""
    script, record = folder / "train.py", folder / "record.json"
    script.write_text(TRAIN)
    learnt, cache = "taught" if taught else "labels", str(folder / "cache")
    run(*launcher, script, record, str(images), json.dumps(augmentation), learnt, HEADWISE_CACHE=cache)
    return json.loads(record.read_text())


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    """Under torchrun, with the same batches over all, also where a batch does not divide: same losses and weights."""
    one, two = trained(tmp_path, (), 75), trained(tmp_path, TWO, 75)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["weight"] == pytest.approx(one["weight"], abs=2e-4)


def test_process_without_an_image_of_the_last_batch_goes_on(tmp_path: Path) -> None:
    """65 images by 16: the last batch is one image. The curve is that of one process."""
    one, two = trained(tmp_path, (), 65), trained(tmp_path, TWO, 65)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["weight"] == pytest.approx(one["weight"], abs=2e-4)


def test_augmentation_takes_a_process_without_an_image(tmp_path: Path) -> None:
    """Each process draws its own, so the curves differ; every loss is finite."""
    assert all(map(math.isfinite, trained(tmp_path, TWO, 65, **ALL)["losses"]))


def test_views_of_a_teacher_are_the_same_for_two_processes(tmp_path: Path) -> None:
    """Augmented and mixed as they are: same losses and weights, also where one has no image."""
    one, two = (trained(tmp_path, launcher, 65, taught=True, **ALL) for launcher in ((), TWO))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["weight"] == pytest.approx(one["weight"], abs=2e-4)


def test_processes_share_what_one_of_them_decoded(tmp_path: Path) -> None:
    """The command under torchrun: the main process makes the cache, shows and writes; the others use it."""
    for label in ("dark", "light"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (20, 20), (20 * index, 100, 255)).save(tmp_path / "photos" / label / f"{index}.png")
    script = tmp_path / "command.py"
    script.write_text(EXPORTER)
    arguments = ("train", "--dataset", f"folder:{tmp_path / 'photos'}", "--run", tmp_path / "run", "--image-size", "8")
    shown = run(*TWO, script, *arguments, HEADWISE_CACHE=str(tmp_path / "cache"))
    assert shown.count("12 training") == 1
    assert len(json.loads((tmp_path / "run" / "training.json").read_text())["epochs"]) == 3
    assert "up to date" in run(*TWO, script, *arguments, HEADWISE_CACHE=str(tmp_path / "cache"))


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun there is one process, the main one."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.process_group():
        assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
        distributed.barrier()
