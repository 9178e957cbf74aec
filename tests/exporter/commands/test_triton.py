"""`exporter export` in both layouts."""

import json
import shutil
from pathlib import Path

import pytest
import support
from headwise.bundle import file_sha256


def test_bundle_becomes_a_triton_repository(bundle: Path, tmp_path: Path) -> None:
    """The folders of the versions are printed."""
    triton = ("--layout", "triton", "--out", tmp_path, "--device", "cpu", "--max-batch", "4")
    done = support.exporter("export", "--bundle", bundle, *triton, "--name", "scans", "--json")
    assert json.loads(done.stdout) == [str(tmp_path / "scans" / "1"), str(tmp_path / "scans_explain" / "1")]
    assert "max_batch_size: 4" in (tmp_path / "scans" / "config.pbtxt").read_text("utf-8")


def test_run_stands_for_the_bundle_that_it_was_exported_to(run: Path, bundle: Path, tmp_path: Path) -> None:
    """Nothing is evaluated again; a bundle that has gone is an error."""
    folder = shutil.copytree(bundle, tmp_path / "models" / "digits" / "1")
    record = {"folder": str(folder), "manifest_sha256": file_sha256(folder / "manifest.json")}
    (run / "export.json").write_text(json.dumps(record), "utf-8")
    triton = ("export", "--run", run, "--layout", "triton", "--out", tmp_path / "triton")
    assert support.exporter(*triton).stdout.splitlines()[0] == str(tmp_path / "triton" / "digits" / "1")
    shutil.rmtree(folder)
    gone = support.exporter(*triton)
    assert gone.exit_code == 1
    assert "found none or another. Run `exporter export` first" in " ".join(gone.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "expected --run, or with --layout triton --bundle"),
        (("--run", "a", "--bundle", "b"), "and not both"),
        (("--bundle", "b"), "expected --layout triton with --bundle"),
        (("--run", "a", "--layout", "torchserve"), "expected one of: headwise, triton"),
        (("--run", "a", "--device", "tpu"), "expected one of: auto, cpu, gpu"),
    ],
)
def test_wrong_option_says_what_is_expected(arguments: tuple[str, ...], expected: str) -> None:
    """Before anything is read."""
    failed = support.exporter("export", *arguments)
    assert failed.exit_code == 2
    assert expected in " ".join(failed.stderr.replace("│", " ").split())
