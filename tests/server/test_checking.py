"""`headwise-server --check`: every bundle on this machine, and an exit status for scripts."""

import json
import os
import shutil
import sys
from pathlib import Path

import processes
import pytest
import support

SERVER = [sys.executable, "-m", "headwise_server"]


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository to change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_good_bundles_are_checked_and_timed(copy: Path, engine: str) -> None:
    """Status 0; for each graph its precision, the difference to the golden set, and times for 1 and 8 images."""
    support.copy_bundle(copy / "digits" / "1", copy, "digits", 2)
    arguments = ["--repository", copy, "--engine", engine, "--precision", "f32", "--check", "--json"]
    process = processes.run([*SERVER, *arguments], check=True)
    bundles = json.loads(process.stdout)
    assert [(bundle["name"], bundle["version"], bundle["engine"]) for bundle in bundles] == [
        ("digits", 1, engine),
        ("digits", 2, engine),
    ]
    for bundle in bundles:
        assert bundle["problem"] == ""
        assert [(graph["graph"], graph["precision"]) for graph in bundle["graphs"]] == [
            ("classify", "f32"),
            ("explain", "f32"),
        ]
        for graph in bundle["graphs"]:
            assert 0 <= graph["golden_difference"] <= 1e-4
            assert sorted(graph["milliseconds"]) == ["1", "8"]
            assert all(value > 0 for value in graph["milliseconds"].values())


def test_bad_bundle_gives_status_1_and_its_reason(copy: Path) -> None:
    """The others are checked all the same, and nothing is served."""
    (support.copy_bundle(copy / "digits" / "1", copy, "digits", 2) / "weights.bin").write_bytes(b"x")
    arguments = ["--repository", copy, "--engine", "onnxruntime", "--check"]
    process = processes.run([*SERVER, *arguments], env={**os.environ, "COLUMNS": "80"})
    assert process.returncode == 1
    assert "listening" not in process.stdout
    rows = [line.split("│") for line in process.stdout.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in (row[1], row[2], row[-2])] for row in rows] == [
        ["digits", "1", "good"],
        ["digits", "1", "good"],
        ["digits", "2", "bad"],
    ]
    last = process.stdout.splitlines()[-1]
    assert last.startswith(f"digits version 2: {copy / 'digits' / '2'} is damaged: weights.bin: expected ")
    assert "Traceback" not in process.stderr


def test_nothing_to_check_gives_status_1(tmp_path: Path) -> None:
    """As the server would not start."""
    process = processes.run([*SERVER, "--repository", tmp_path, "--check"])
    assert process.returncode == 1
    assert "holds no bundle" in process.stderr
