"""The command `exporter`, as a person runs it."""

import json
import os
import shutil
import signal
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import support
from headwise import Client
from headwise.bundle import file_sha256
from headwise_exporter import recipes
from headwise_exporter.data.datasets import NAMES
from PIL import Image
from support import exporter

BUILD_IN_A_PROCESS = """
import os, sys, time
import support
from dataclasses import replace
from headwise_exporter import cli, recipes
from headwise_exporter.training import loop
small = support.small_recipe()
recipes.RECIPES["digits"] = lambda: replace(small, training=replace(small.training, epochs=12))
loop.CHECKPOINT_SECONDS = 0.0
save = loop._Run.save

def save_and_stand_still(*arguments):
    save(*arguments)
    time.sleep(1e6)

if os.environ["STANDS_STILL"]:
    loop._Run.save = save_and_stand_still
sys.argv[0] = "exporter"
cli.main()
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits with a model that trains in seconds."""
    monkeypatch.setitem(recipes.RECIPES, "digits", support.small_recipe)


def start(*arguments: str | Path, stands_still: bool = False) -> AbstractContextManager[processes.Process]:
    """Run the command in a process of its own; its training saves after every epoch, or once and then stands still."""
    return processes.start(
        [sys.executable, "-c", BUILD_IN_A_PROCESS, *map(str, arguments)],
        stdout=processes.PIPE,
        stderr=processes.STDOUT,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(support.__file__).parent),
            "STANDS_STILL": "yes" if stands_still else "",
        },
    )


def train_to_the_end(*arguments: str | Path) -> None:
    """The same, waited for; nothing goes wrong."""
    with start(*arguments) as training:
        output = training.communicate(timeout=support.LONG_SECONDS)[0]
    assert training.returncode == 0, output


def wait_until_saved(training: processes.Process, run: Path) -> None:
    """Wait for the first checkpoint of a training."""

    def is_saved() -> bool:
        assert training.poll() is None, training.communicate()
        return (run / "training.resume.pt").exists()

    support.wait_until(is_saved)


def test_build_goes_from_data_set_to_bundle_and_is_done_once(tmp_path: Path) -> None:
    """One command makes a bundle that verifies; the same command again reports that all is up to date.

    What was said of pictures holds for it.
    """
    arguments = ("build", "--dataset", "digits", "--out", tmp_path / "models", "--run", tmp_path / "run")
    first = exporter(*arguments, "--criterion", "taylor", "--no-pictures")
    assert first.exit_code == 0, first.output
    for expected in ("360 test images", "dense", "masked", "pruned", "taylor", "models/digits/1"):
        assert expected in first.output
    second = exporter(*arguments, "--criterion", "taylor")
    assert second.exit_code == 0
    assert [f"{stage}: up to date" in second.output for stage in ("train", "measure", "prune", "export")] == [True] * 4
    assert [path.name for path in (tmp_path / "models" / "digits").iterdir()] == ["1"]
    assert exporter("verify", tmp_path / "models" / "digits" / "1").exit_code == 0
    page = (tmp_path / "models/digits/1/report.html").read_text("utf-8")
    assert "Pictures were left out" in page
    assert "<img" not in page
    changed = exporter(*arguments, "--criterion", "magnitude", "--json")
    assert json.loads(changed.stdout)["version"] == "2"
    assert json.loads(changed.stdout)["pruning"]["criterion"] == "magnitude"


def test_stages_alone_make_the_same_models_as_build(built: Path, tmp_path: Path) -> None:
    """train, measure, prune and export, one after another."""
    run, models = tmp_path / "run", tmp_path / "models"
    for arguments in (
        ("train", "--dataset", "digits", "--run", run),
        ("measure", "--run", run),
        ("prune", "--run", run, "--criterion", "variance*snp"),
        ("export", "--run", run, "--out", models, "--name", "mine"),
    ):
        result = exporter(*arguments)
        assert result.exit_code == 0, result.output
    assert file_sha256(run / "dense.safetensors") == file_sha256(built / "run" / "dense.safetensors")
    assert (models / "mine" / "1" / "manifest.json").is_file()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained without a stop."""
    run = tmp_path_factory.mktemp("whole")
    train_to_the_end("train", "--dataset", "digits", "--run", run)
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_build_goes_on_where_it_stopped(
    uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Stopped while training and run again, a build ends in the same weights as without."""
    arguments = ("train", "--dataset", "digits", "--run", tmp_path / "run")
    with start(*arguments, stands_still=True) as interrupted:
        wait_until_saved(interrupted, tmp_path / "run")
        interrupted.send_signal(number)
        output = interrupted.communicate(timeout=support.LONG_SECONDS)[0]
    assert interrupted.returncode == (-number if number == signal.SIGKILL else 130), output
    assert ("goes on where this one stopped" in output) == (number != signal.SIGKILL)
    assert not (tmp_path / "run" / "dense.safetensors").exists()
    train_to_the_end(*arguments)
    assert file_sha256(tmp_path / "run" / "dense.safetensors") == file_sha256(uninterrupted / "dense.safetensors")
    assert not (tmp_path / "run" / "training.resume.pt").exists()


def test_unknown_data_set_is_one_clear_line(tmp_path: Path) -> None:
    """The known ones are listed; no traceback, nothing written."""
    result = exporter("build", "--dataset", "mnist", "--out", tmp_path / "models", "--run", tmp_path / "run")
    assert result.exit_code == 1
    assert f"exporter: unknown data set 'mnist'; expected one of: {', '.join(NAMES)}." in result.output
    assert list(tmp_path.iterdir()) == []


def test_unwritable_out_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    """The output folder is tried first, so that no training is lost."""
    (tmp_path / "file").write_text("")
    out, run = tmp_path / "file" / "models", tmp_path / "run"
    result = exporter("build", "--dataset", "digits", "--out", out, "--run", run)
    assert result.exit_code == 1
    assert "cannot write to" in result.output
    assert not run.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--layers", "diagonal"), "Input should be 'auto', 'feed_forward', 'classifier_head' or 'both'"),
        (("--mask-by", "luck"), "expected mask_by to be one of auto, none, andc, permuted"),
        (("--criterion", "luck"), "expected criterion to be one of auto, magnitude"),
        (("--set", "prune.criterion=luck"), "expected criterion to be one of auto, magnitude"),
        (("--set", "prune.budget.heads=0"), "expected a kept share in (0, 1] for heads, found 0.0"),
        (("--set", "prune.threshold=2"), "expected threshold in 0 .. 1, found 2.0"),
        (("--name", "../x"), "expected letters, digits"),
    ],
)
def test_wrong_option_says_what_is_expected(tmp_path: Path, arguments: tuple[str, str], expected: str) -> None:
    """Every option names the values it takes, before anything is trained."""
    result = exporter(
        "build", "--dataset", "digits", "--out", tmp_path / "models", "--run", tmp_path / "run", *arguments
    )
    assert result.exit_code in (1, 2)
    assert expected in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "run" / "dense.safetensors").exists()


def test_verify_names_what_fails_and_exits_with_1(bundle: Path, tmp_path: Path) -> None:
    """A damaged bundle: the check and the file are named, for people and for programs."""
    copy = Path(shutil.copytree(bundle, tmp_path / "1"))
    (copy / "weights.bin").write_bytes(b"")
    result = exporter("verify", copy)
    assert result.exit_code == 1
    assert "failed: files" in result.output
    checks = json.loads(exporter("verify", copy, "--json").stdout)
    assert [check["name"] for check in checks if not check["passed"]] == ["files"]
    assert "weights.bin: expected" in checks[-1]["detail"]


def test_stage_without_a_run_says_what_to_do_first(tmp_path: Path) -> None:
    """`measure` on an empty folder names `exporter train`."""
    result = exporter("measure", "--run", tmp_path)
    assert result.exit_code == 1
    assert "Run `exporter train` first" in result.output


def test_loss_that_is_not_finite_is_one_clear_line(tmp_path: Path) -> None:
    """A diverged training exits with 1, and leaves no model."""
    changes = ("--set", "training.learning_rate=1e30", "--set", "training.gradient_clip=1e30")
    result = exporter("train", "--dataset", "digits", "--run", tmp_path / "run", *changes)
    assert result.exit_code == 1
    assert "the loss became" in result.output
    assert not (tmp_path / "run" / "dense.safetensors").exists()


def test_recipes_are_listed() -> None:
    """Each by name with what it gave, for people; with every setting, for programs."""
    assert "cct_7_3x1" in exporter("recipes").output
    assert json.loads(exporter("recipes", "--json").stdout)["cct_7_3x1"]["training"]["epochs"] == 300


def photos(folder: Path, of_each: int) -> None:
    """Photos of three colours, a folder of each."""
    for number, color in enumerate(("red", "green", "blue")):
        (folder / color).mkdir(parents=True)
        for index in range(of_each):
            shade = tuple(200 if channel == number else 5 * index for channel in range(3))
            Image.new("RGB", (20, 30), shade).save(folder / color / f"{index}.jpg")


def test_folder_of_photos_becomes_a_served_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label folders of any images, from files to an answer of a server, which knows the folders' names."""
    monkeypatch.setenv("HEADWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(recipes.RECIPES, "folder", lambda: replace(support.small_recipe(), dataset="folder"))
    photos(tmp_path / "photos", of_each=10)
    arguments = ("--out", tmp_path / "models", "--run", tmp_path / "run", "--image-size", "8", "--epochs", "40")
    result = exporter("build", "--dataset", f"folder:{tmp_path / 'photos'}", *arguments)
    assert result.exit_code == 0, result.output
    with (
        support.running_server(tmp_path / "models") as running,
        Client(running.address, timeout_seconds=support.LONG_SECONDS) as client,
    ):
        client.wait_until_ready(support.LONG_SECONDS)
        files = [tmp_path / "photos" / color / "3.jpg" for color in ("red", "green", "blue")]
        assert [classification.top[0].label for classification in client.classify(files)] == ["red", "green", "blue"]
        assert client.list_models()[0].name == "photos"


def test_training_starts_from_given_weights(built: Path, tmp_path: Path) -> None:
    """--init takes a file of weights and reports the tensors taken; other weights are another training."""
    arguments = ("train", "--dataset", "digits", "--run", tmp_path / "run", "--epochs", "1")
    result = exporter(*arguments, "--init", built / "run" / "dense.safetensors")
    assert result.exit_code == 0, result.output
    assert "tensors as they are" in result.output
    assert "train: up to date" in exporter(*arguments, "--init", built / "run" / "dense.safetensors").output
    assert "train: up to date" not in exporter(*arguments).output
    missing = exporter(*arguments, "--init", "checkpoint:nothing")
    assert missing.exit_code == 1
    assert "shipped checkpoint (cifar100, digits, flowers102, flowers102_taught), found 'nothing'" in missing.output


def test_training_learns_from_a_teacher(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--teacher takes the classify graph of a bundle as it is; another is an error, and labels alone are as before."""
    monkeypatch.setenv("HEADWISE_CACHE", str(tmp_path / "cache"))
    arguments = ("train", "--dataset", "digits", "--run", tmp_path / "run", "--epochs", "1")
    taught = ("--teacher", bundle / "classify.onnx")
    result = exporter(*arguments, *taught)
    assert result.exit_code == 0, result.output
    assert "teacher: asked about 1 view of 1,078 images, 1 MiB of logits" in result.output
    assert "train: up to date" in exporter(*arguments, *taught).output
    missing = exporter(*arguments, "--teacher", tmp_path / "none.onnx")
    assert missing.exit_code == 1
    assert "expected the teacher's ONNX graph at" in missing.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--teacher-size", "224"), "expected --teacher with it, found none"),
        (("--teacher", "x.onnx", "--teacher-layout", "hwcn"), "expected one of nchw, nhwc, found 'hwcn'"),
        (("--teacher", "x.onnx", "--teacher-mean", "half"), "expected numbers like 0.5,0.5,0.5, found 'half'"),
    ],
)
def test_wrong_description_of_a_teacher_says_what_is_expected(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    """Before anything is read."""
    result = exporter("train", "--dataset", "digits", "--run", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert expected in " ".join(result.output.replace("│", " ").split())


def test_setting_cannot_change_the_data_set(tmp_path: Path) -> None:
    """It would be ignored: the option that names the data set is named instead."""
    result = exporter("train", "--dataset", "digits", "--run", tmp_path, "--set", "dataset=cifar100")
    assert result.exit_code == 1
    assert "expected --dataset to name the data set, found --set dataset=cifar100" in result.output


def test_error_shows_a_path_with_brackets_as_it_is(tmp_path: Path) -> None:
    """Square brackets are not taken for markup."""
    result = exporter("measure", "--run", tmp_path / "[bold]run")
    assert "[bold]run has no trained model" in result.output


def test_interrupted_training_does_not_go_on_from_other_initial_weights(built: Path, tmp_path: Path) -> None:
    """A checkpoint of a training from scratch is not resumed when weights to start from are given."""
    arguments = ("train", "--dataset", "digits", "--run", tmp_path / "run")
    with start(*arguments, stands_still=True) as interrupted:
        wait_until_saved(interrupted, tmp_path / "run")
    for run in ("run", "fresh"):
        init = ("--init", str(built / "run" / "dense.safetensors"))
        train_to_the_end("train", "--dataset", "digits", "--run", tmp_path / run, *init)
    weights = [file_sha256(tmp_path / run / "dense.safetensors") for run in ("run", "fresh")]
    assert weights[0] == weights[1]


def test_evaluation_is_that_of_the_bundle(built: Path) -> None:
    """Every model of the run, with the figures that its manifest has."""
    rows = {row["model"]: row for row in json.loads(exporter("evaluate", "--run", built / "run", "--json").stdout)}
    metrics = json.loads((built / "models" / "digits" / "1" / "manifest.json").read_text("utf-8"))["metrics"]
    assert list(rows) == ["dense", "masked", "pruned"]
    for name, row in rows.items():
        assert row["accuracy"] == metrics[f"{name}_accuracy"]
        assert row["interval_low"] == metrics[f"{name}_accuracy_interval"]["low"]
        assert row["images"] == 360


def test_evaluation_of_a_split_names_it(built: Path, tmp_path: Path) -> None:
    """A run that was only trained has one model; a person reads a table."""
    for name in ("dense.safetensors", "training.json"):
        shutil.copy(built / "run" / name, tmp_path)
    shown = exporter("evaluate", "--run", tmp_path, "--split", "validation").stdout
    assert "359 validation images" in shown
    assert "dense" in shown
    assert "pruned" not in shown


def test_measurement_is_shown_and_given_to_programs(run: Path) -> None:
    """A row for each tap point and each head; the file itself as JSON."""
    shown = exporter("measure", "--run", run)
    assert shown.exit_code == 0, shown.output
    for expected in ("measure: up to date", "1.feed_forward_hidden", "359 validation images", "1.3", "alone"):
        assert expected in shown.output
    findings = json.loads(exporter("measure", "--run", run, "--json").stdout)
    assert findings == json.loads((run / "findings.json").read_text("utf-8"))


def test_training_leaves_a_log(built: Path) -> None:
    """One line for each epoch, as in the record."""
    lines = (built / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == json.loads((built / "run" / "training.json").read_text())["epochs"]
    assert list((built / "run" / "tensorboard").iterdir())


def test_no_epochs_take_the_initial_weights_as_they_are(built: Path, tmp_path: Path) -> None:
    """A trained model can be pruned and served without training it again."""
    weights = built / "run" / "dense.safetensors"
    arguments = ("train", "--dataset", "digits", "--run", tmp_path / "run", "--epochs", "0")
    assert exporter(*arguments, "--init", weights).exit_code == 0
    assert file_sha256(tmp_path / "run" / "dense.safetensors") == file_sha256(weights)


def test_no_epochs_without_initial_weights_is_an_error(tmp_path: Path) -> None:
    """Random weights are no model."""
    result = exporter("train", "--dataset", "digits", "--run", tmp_path / "run", "--epochs", "0")
    assert result.exit_code == 1
    assert "expected weights to start from (--init)" in result.stderr
