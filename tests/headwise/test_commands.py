"""The command `headwise`, as a person and as a program runs it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import support
from headwise.commands import app
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A file with a picture in it."""
    path = tmp_path / "digit.png"
    pixels = np.random.default_rng(2).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def headwise(server: support.ServerProcess, *arguments: str | Path) -> Any:
    """Run the command in this process."""
    environment = {"HEADWISE_SERVER": server.address, "COLUMNS": "120"}
    return CliRunner().invoke(app, list(map(str, arguments)), env=environment)


def test_explain_in_another_process_names_heads_and_their_labels(server: support.ServerProcess, digit: Path) -> None:
    """`headwise explain` on a PNG, server and client each in a process of its own."""
    command = [sys.executable, "-m", "headwise.cli", "explain", str(digit), "--server", server.address]
    process = processes.run(command, check=True)
    for expected in ("encoder 1 head", "recognises", "embedding", "biases", "logit", "They add up within"):
        assert expected in process.stdout


def test_classify_shows_the_labels_of_each_file(server: support.ServerProcess, digit: Path) -> None:
    """A table for each file, and who answered in how long."""
    result = headwise(server, "classify", digit, digit, "--top-k", "3")
    assert result.exit_code == 0, result.output
    assert result.output.count("probability") == 2
    assert result.output.count(" %") == 6
    assert "digits version 1 on onnxruntime in f32" in result.output


def test_classify_for_a_program(server: support.ServerProcess, digit: Path) -> None:
    """--json gives every number by name."""
    [classification] = json.loads(headwise(server, "classify", digit, "--json").stdout)
    assert classification["file"] == str(digit)
    assert classification["top"][0]["probability"] == pytest.approx(max(classification["probabilities"]))
    assert len(classification["logits"]) == 10
    assert set(classification["timings"]) == {"queue_seconds", "inference_seconds", "total_seconds"}


def test_explain_for_a_program_adds_up(server: support.ServerProcess, digit: Path) -> None:
    """--json keeps together what is known of a head; the parts sum to the logit of each label asked for."""
    arguments = ("explain", digit, "--label", "4", "--label", "9", "--json")
    [explanation] = json.loads(headwise(server, *arguments).stdout)
    assert [target["label"] for target in explanation["targets"]] == ["4", "9"]
    for position, target in enumerate(explanation["targets"]):
        total = sum(head["contributions"][position] for head in explanation["heads"])
        total += sum(part[position] for part in explanation["other_parts"].values())
        assert total == pytest.approx(target["logit"], abs=1e-4)
    pruned = [head["pruned"] for head in explanation["heads"]]
    assert [head["fields"][0] is None for head in explanation["heads"]] == pruned


def test_table_adds_up_to_the_logit_though_heads_are_left_out(server: support.ServerProcess, digit: Path) -> None:
    """Parts beyond those shown stand in one row together; shares add up to a hundred."""
    result = headwise(server, "explain", digit, "--parts", "2", "--top-k", "1")
    rows = [line.split("│")[1:4] for line in result.output.splitlines() if line.startswith("│")]
    values = {name.strip(): float(value) for name, _, value in rows if value.strip()}
    shares = [float(share.strip(" %")) for _, share, _ in rows if share.strip()]
    above = values.pop("logit above mean")
    assert any("other parts" in name for name in values)
    assert sum(values.values()) == pytest.approx(above, abs=0.01)
    assert sum(shares) == pytest.approx(100, abs=3)


def test_explain_shows_maps_falls_silence_and_a_contrast(server: support.ServerProcess, digit: Path) -> None:
    """What was asked for, each with what it is and is not."""
    options = ("--label", "4", "--against", "9", "--maps", "--silence", "1.0", "--silence", "0.1")
    result = headwise(server, "explain", digit, *options)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    for expected in ("rather than 9", "difference", "come from", "not the region that matters", "heads silent"):
        assert expected in shown
    falls = headwise(server, "explain", digit, "--causal", "--parts", "9")
    assert "fall" in falls.output
    assert "(Spearman)" in falls.output
    best = headwise(server, "explain", digit, "--against", "9", "--silence", "1.0")
    assert len(best.output.split("heads silent")[1].split("─┘")[0].split("┡")[1].splitlines()) <= 4  # two labels
    assert best.exit_code == 0
    assert " ".join(best.output.split()).count("rather than 9") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--silence", "first"), "expected ENCODER.HEAD"),
        (("--silence", "7.7"), "expected a head that the model has kept"),
        (("--against", "rose"), "expected a label of the model"),
    ],
)
def test_wrong_option_of_explain_is_named(
    server: support.ServerProcess, digit: Path, options: tuple[str, ...], expected: str
) -> None:
    """With what would be right."""
    result = headwise(server, "explain", digit, *options)
    assert result.exit_code == 2
    assert expected in " ".join(result.output.replace("│", " ").split())


def test_models_are_listed(server: support.ServerProcess) -> None:
    """Name, version, engine, precision and hash, for people and for programs."""
    assert "onnxruntime" in headwise(server, "models").output
    [model] = json.loads(headwise(server, "models", "--json").stdout)
    assert (model["name"], model["version"], model["precision"]) == ("digits", "1", "f32")


def test_models_waits_for_a_server_that_starts(repository: Path) -> None:
    """From a script that has just started one; without a server it gives up in time."""
    with support.running_server(repository) as starting:
        result = headwise(starting, "models", "--wait", str(support.LONG_SECONDS))
    assert result.exit_code == 0, result.output
    assert "digits" in result.output
    gone = headwise(starting, "models", "--wait", "0.2")
    assert gone.exit_code == 1
    assert "no server answers" in gone.output


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii output", "ascii locale"],
)
def test_any_script_goes_through_a_terminal_that_lacks_it(
    server: support.ServerProcess, digit: Path, environment: dict[str, str]
) -> None:
    """Tables and bars are drawn plainly, a file's name is escaped, and a label reaches the server as it was typed."""
    named = digit.rename(digit.with_name("数字.png"))

    def explain(*arguments: str) -> processes.Completed:
        command = [sys.executable, "-m", "headwise", "explain", named.name, "--server", server.address, *arguments]
        return processes.run(command, cwd=named.parent, env={**os.environ, **environment})

    shown = explain()
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.isascii()
    for expected in ("#", "against|for", ".png"):
        assert expected in shown.stdout
    refused = explain("--label", "数")
    assert refused.returncode == 2
    assert "found '\\u6570'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("classify", "/nonexistent.png"), 2, "/nonexistent.png: No such file or directory"),
        (("classify", __file__), 2, "expected an image, found no image that is read here"),
        (("explain", "DIGIT", "--label", "rose"), 2, "expected a label of the model (0, 1, 2"),
        (("classify", "DIGIT", "--model", "flowers"), 2, "found model 'flowers'"),
        (("models", "--server", "127.0.0.1:1"), 1, "no server answers at 127.0.0.1:1"),
    ],
)
def test_what_goes_wrong_is_one_clear_line(
    server: support.ServerProcess, digit: Path, arguments: tuple[str, ...], status: int, expected: str
) -> None:
    """Status 2 where the request is wrong, 1 where the call failed; no traceback."""
    result = headwise(server, *(str(digit) if argument == "DIGIT" else argument for argument in arguments))
    assert result.exit_code == status
    assert expected in result.output
    assert result.output.startswith("headwise: ")
    assert len(result.output.splitlines()) == 1
