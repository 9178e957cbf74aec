"""The README: its commands run, and its figures are those of the records."""

import json
import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import support
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BUILD = json.loads((ROOT / "results/digits/build.json").read_text("utf-8"))["metrics"]
THROUGHPUT = json.loads((ROOT / "results/digits/classify_throughput.json").read_text("utf-8"))
LATENCY = json.loads((ROOT / "results/explain_latency.json").read_text("utf-8"))

# The documented command, with a recipe that takes seconds.
QUICK_EXPORTER = """#!{python}
import sys
sys.path.insert(0, {tests!r})
import support
from headwise_exporter import cli
from headwise_exporter import recipes
recipes.RECIPES["digits"] = support.small_recipe
cli.main()
"""


def blocks(language: str) -> list[str]:
    """Code blocks of the README in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_first_commands_are_scripts_that_are_there() -> None:
    """The two commands of the first page, and what CI calls."""
    first, second, *_ = blocks("sh")
    for command in (first.strip(), second.strip()):
        assert os.access(ROOT / command, os.X_OK)
    assert second.strip() in (ROOT / ".ci/run").read_text("utf-8")


def test_step_by_step_runs_as_it_stands(tmp_path: Path) -> None:
    """Every line, in a shell that stops at the first failure, from an empty folder to an explained digit."""
    binaries = Path(sys.executable).parent
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("headwise", "headwise-server"):
        (tmp_path / ".venv/bin" / name).symlink_to(binaries / name)
    (tmp_path / ".venv/bin/activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    exporter = tmp_path / ".venv/bin/exporter"
    exporter.write_text(QUICK_EXPORTER.format(python=sys.executable, tests=str(Path(__file__).parent)))
    exporter.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    [steps] = [block for block in blocks("sh") if "exporter build" in block]
    process = processes.run(
        ["bash", "-euc", f"set -m\n{steps}\nwait"],
        cwd=tmp_path,
        env={**os.environ, "HEADWISE_LISTEN": address, "HEADWISE_SERVER": address, "COLUMNS": "100"},
    )
    assert process.returncode == 0, process.stderr
    for expected in ("bundle: models/digits/1", "completeness of the split", "probability", "recognises"):
        assert expected in process.stdout


def test_python_block_runs_as_it_stands(
    server: support.ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the address of a server that runs: a line for each of the largest parts."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("digit.png")
    [block] = blocks("python")
    assert "localhost:50051" in block
    exec(block.replace("localhost:50051", server.address), {})
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize("model", ["dense", "masked", "pruned"])
def test_accuracies_are_those_of_the_record(model: str) -> None:
    """Accuracy with its interval, parameters and operations of each model."""
    [row] = [line for line in README.splitlines() if line.startswith(f"| {model}")]
    interval = BUILD[f"{model}_accuracy_interval"]
    shape = "pruned" if model == "pruned" else "dense"
    for expected in (
        f"{100 * BUILD[f'{model}_accuracy']:.2f} ({100 * interval['low']:.2f}-{100 * interval['high']:.2f})",
        f"{BUILD[f'parameters_{shape}']:,}",
        f"{BUILD[f'macs_{shape}'] / 1e6:.2f} M",
    ):
        assert expected in row
    if model == "masked":
        assert f"keeps {100 * BUILD['kept_connections']:.0f} % of the connections" in row


def test_speeds_are_those_of_the_records() -> None:
    """Throughput with its quartiles, and what Explain costs on each runtime at each batch."""
    text = " ".join(README.split())
    low, high = THROUGHPUT["ratio_quartile_low"], THROUGHPUT["ratio_quartile_high"]
    assert f"{THROUGHPUT['ratio']:.2f} x (quartiles {low:.2f}-{high:.2f})" in text
    ratio = {(row["runtime"], row["batch"]): f"{row['ratio']:.2f} x" for row in LATENCY["rows"]}
    onnxruntime, openvino = ([ratio[f"{name} f32", batch] for batch in (1, 8)] for name in ("onnxruntime", "openvino"))
    assert f"costs {onnxruntime[0]} Classify in ONNX Runtime and {openvino[0]} in OpenVINO at batch 1" in text
    assert f"{onnxruntime[1]} and {openvino[1]} at batch 8" in text
    maps = [f"{row['maps']['ratio']:.2f}" for row in LATENCY["rows"]]
    assert f"with maps of {LATENCY['targets']} labels {min(maps)} to {max(maps)} x" in text
    assert f"n = {THROUGHPUT['rounds']} and {LATENCY['rounds']} rounds" in text
    assert f"{THROUGHPUT['machine']['cores']} cores of an {THROUGHPUT['machine']['processor']}" in text


def test_pruning_of_cifar100_is_that_of_the_records() -> None:
    """Every row of the table, the default build on both kinds of images, and what int8 changes."""
    curve = json.loads((ROOT / "results/cifar100/pruning_curve.json").read_text("utf-8"))
    build = json.loads((ROOT / "results/cifar100/build.json").read_text("utf-8"))
    text = " ".join(README.split())
    graphs = {(row["model"], row["precision"]): row for row in curve["rows"] if row["engine"] == "onnxruntime"}
    whole = graphs["dense", "f32"]
    lines = [line for line in README.splitlines() if re.match(r"\| \d+ %", line)]
    shown = {}
    for model, row in ((model, row) for (model, precision), row in graphs.items() if precision == "f32"):
        times = [timing["speedup"] for kind in ("f32", "int8") for timing in graphs[model, kind]["timings"]]
        shown[f"{row['macs'] / whole['macs']:.0%}".replace("%", " %")] = (row, [f"{value:.2f} x" for value in times])
    for line in lines:
        kept, points, *speedups = (cell.strip() for cell in line.strip("|").split("|"))
        row, times = shown[kept.removesuffix(" (the default)")]
        if row is not whole:
            low, high = (f"{100 * row[f'difference_{end}']:+.2f}" for end in ("low", "high"))
            assert points == f"{100 * row['difference']:+.2f} ({low} to {high})"
            assert speedups == times
        else:
            assert speedups == ["1", "1", *times[2:]]
    assert len(lines) == 5
    [chosen] = [candidate for candidate in build["pruning"]["candidates"] if candidate["chosen"]]
    metrics, dense = build["metrics"], build["pruning"]["dense_validation_accuracy"]
    lost = 100 * (dense - chosen["validation_accuracy"])
    lost_on_test = 100 * (metrics["dense_accuracy"] - metrics["pruned_accuracy"])
    kept = f"{metrics['macs_pruned'] / metrics['macs_dense']:.0%}".replace("%", " %")
    assert f"the search stops at {kept} of the operations, which cost {lost:.2f} points on validation images" in text
    assert f"and {lost_on_test:.2f} on test images" in text
    assert f"{curve['images']:,} validation images, of which the dense model has {100 * dense:.2f} % right" in text
    changes = [
        100 * (graphs[model, "int8"]["difference"] - row["difference"])
        for (model, precision), row in graphs.items()
        if precision == "f32"
    ]
    assert f"by {min(changes):+.2f} to {max(changes):+.2f} more" in text
