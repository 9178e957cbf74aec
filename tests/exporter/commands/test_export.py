"""`exporter quantize`: the next version of a bundle with int8 graphs, and a table of what they cost."""

import json
from pathlib import Path

import pytest
import support
from headwise.bundle import read_manifest
from headwise.v1.bundle_pb2 import Bundle, Variant
from headwise_exporter.commands.export import variant_table
from rich.console import Console
from support import exporter


def shown(manifest: Bundle) -> str:
    """The table as text."""
    console = Console(width=160)
    with console.capture() as capture:
        console.print(variant_table(manifest))
    return capture.get()


def test_table_has_paired_figures_and_reasons() -> None:
    """Points with an interval where a variant was measured, dashes where it was not made, a reason where it failed."""
    variants = [
        Variant(
            engine="onnxruntime",
            accepted=True,
            validation_accuracy=0.649,
            float_validation_accuracy=0.65,
            validation_images=1000,
            images_lost=6,
            images_won=5,
            golden_difference=0.493,
        ),
        Variant(engine="openvino", reason="not made: nncf missing"),
    ]
    lines = shown(Bundle(variants=variants)).splitlines()
    [first] = [line for line in lines if "onnxruntime" in line]
    assert [cell.strip() for cell in first.split("│")[1:-1]] == [
        "onnxruntime",
        "64.90",
        "-0.10 (-0.78 to +0.58)",
        "6",
        "5",
        "0.49",
        "accepted",
    ]
    [second] = [line for line in lines if "openvino" in line]
    assert second.count(" - ") == 5
    assert "not made: nncf missing" in second


def test_quantize_writes_the_next_version(
    run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other settings a bundle is written anew, with the same it is up to date; the old one is as it was."""
    monkeypatch.setattr("headwise_exporter.export.bundle.export_graphs", support.copied_graphs(bundle))
    models = tmp_path / "models"
    arguments = (
        "quantize",
        "--run",
        run,
        "--out",
        models,
        "--images",
        "32",
        "--set",
        'quantize.engines=["onnxruntime"]',
    )
    first = exporter(*arguments, "--max-drop", "100")
    assert first.exit_code == 0, first.output
    assert "accepted" in first.stdout
    assert "classify.onnxruntime.int8.onnx" in {path.name for path in (models / "digits" / "1").iterdir()}
    assert "export: up to date" in exporter(*arguments, "--max-drop", "100").output
    second = exporter(*arguments, "--max-drop", "99", "--json")
    assert second.exit_code == 0, second.output
    printed = json.loads(second.stdout)
    assert (printed["version"], printed["variants"][0]["max_drop"]) == ("2", 0.99)
    assert read_manifest(models / "digits" / "1").variants[0].max_drop == 1.0
    assert exporter("verify", models / "digits" / "2").exit_code == 0
