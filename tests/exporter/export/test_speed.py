"""A bundle's graphs beside the dense model that they were made from."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import support
from headwise.bundle import BundleError, read_golden_set, read_manifest
from headwise_exporter.bench import variants
from headwise_exporter.bench.fresh import Footprint
from headwise_exporter.bench.sessions import SessionError, open_session, processor_has_bf16
from headwise_exporter.bench.variants import BenchSettings
from headwise_exporter.export import speed
from headwise_exporter.export.speed import BenchError, bench_bundle, candidates, dense_config, golden_failure
from headwise_exporter.stages.run import trained_dataset

SETTINGS = BenchSettings(batches=(2,), threads=(1,), seconds=0.0)
ALL = [(model, engine, "f32") for engine in ("onnxruntime", "openvino") for model in ("dense", "pruned")]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the processes and the products, which have tests of their own."""
    monkeypatch.setattr(variants, "footprint", lambda *arguments: Footprint(0.5, 1024))
    monkeypatch.setattr(variants, "fastest", lambda engines, *others: (engines[0], 1e9))


def test_finished_bundle_is_timed_and_left_as_it_is(bundle: Path) -> None:
    """Dense and pruned model on each engine here, the dense one on ONNX Runtime first, with validation accuracies."""
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    result = bench_bundle(bundle, SETTINGS)
    timed = [(variant.model, variant.engine, variant.precision) for variant in result.variants]
    assert timed[0] == ALL[0]
    assert [one for one in timed if one[2] == "f32"] == ALL
    assert (("pruned", "openvino", "bf16") in timed) == processor_has_bf16()
    pruning = read_manifest(bundle).pruning
    accuracies = {(one.model, one.engine): one.validation_accuracy for one in result.variants if one.precision == "f32"}
    assert accuracies["dense", "openvino"] == pruning.dense_validation_accuracy
    [chosen] = [candidate for candidate in pruning.candidates if candidate.chosen]
    assert accuracies["pruned", "openvino"] == chosen.validation_accuracy
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_export_measures_for_the_manifest_and_the_report(bundle: Path) -> None:
    """Each variant with one thread at batches of 1 and 8; the page has the table."""
    manifest = read_manifest(bundle)
    assert len(manifest.bench.variants) >= len(ALL)
    for variant in manifest.bench.variants:
        assert [(timed.threads, timed.batch) for timed in variant.timings] == [(1, 1), (1, 8)]
        assert variant.HasField("validation_accuracy")
        assert variant.load_seconds > 0
    assert {variant.path for variant in manifest.bench.variants} == {"", "classify.onnx"}
    assert '<h2 id="speed">Speed</h2>' in (bundle / "report.html").read_text("utf-8")


def test_accepted_variants_are_timed_with_their_accuracy(int8_bundle: Path) -> None:
    """Each on its own engine, its products in integers; one whose answers differ is left out with the reason."""
    manifest = read_manifest(int8_bundle)
    result = bench_bundle(int8_bundle, SETTINGS)
    timed = {one.engine: one for one in result.variants if one.precision == "int8"}
    assert timed.keys() == {"onnxruntime", "openvino"}
    for variant in manifest.variants:
        assert timed[variant.engine].path == variant.path
        assert timed[variant.engine].validation_accuracy == variant.validation_accuracy
        assert timed[variant.engine].size_bytes > 1000
    manifest.variants[0].golden_tolerance = 1e-9
    refused = speed.measure(int8_bundle, manifest, SETTINGS)
    [reason] = refused.left_out
    assert "int8: golden set differs by" in reason


def test_engine_that_is_named_must_run(bundle: Path) -> None:
    """Nothing is timed in its place."""
    with pytest.raises(SessionError, match="tensorrt cannot run here: expected TensorrtExecutionProvider, found"):
        bench_bundle(bundle, SETTINGS, ["tensorrt"])


def test_only_the_engine_that_is_named_is_timed_beside_the_baseline(bundle: Path) -> None:
    """The baseline is on ONNX Runtime whatever is named."""
    result = bench_bundle(bundle, SETTINGS, ["openvino"])
    engines = [variant.engine for variant in result.variants]
    assert engines == ["onnxruntime", *["openvino"] * (len(engines) - 1)]


def test_damaged_bundle_is_not_timed(bundle: Path, tmp_path: Path) -> None:
    """The file is named."""
    copy = Path(shutil.copytree(bundle, tmp_path / "1"))
    (copy / "weights.bin").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"weights\.bin"):
        bench_bundle(copy, SETTINGS)


def test_sizes_must_give_what_the_manifest_states(bundle: Path) -> None:
    """A dense model of other sizes would be another comparison."""
    manifest = read_manifest(bundle)
    assert dense_config(manifest) == support.small_config()
    manifest.metrics.parameters_dense += 1
    with pytest.raises(BenchError, match="as its manifest states"):
        dense_config(manifest)


def test_filters_of_the_dense_model_are_in_the_manifest(bundle: Path) -> None:
    """Without them a model with other convolutions could not be made again."""
    manifest = read_manifest(bundle)
    manifest.architecture.dense_filters.append(4)
    with pytest.raises(BenchError, match=r"its sizes there give .* Export it again"):
        dense_config(manifest)


def test_answers_beside_the_golden_set_are_refused(bundle: Path) -> None:
    """By the tolerance of the type, and in reduced types by the first labels."""
    manifest, golden = read_manifest(bundle), read_golden_set(bundle)

    def failure(change: float, precision: speed.Precision) -> str | None:
        return golden_failure({"logits": golden["logits"] + np.float32(change)}, golden, manifest, precision)

    assert failure(0, "f32") is None
    assert "found a difference of" in str(failure(2 * manifest.golden_tolerance, "f32"))
    assert failure(manifest.golden_tolerance_reduced / 2, "bf16") is None
    flipped = {"logits": -golden["logits"]}
    manifest.golden_tolerance_reduced = 1e9
    assert "found" in str(golden_failure(flipped, golden, manifest, "bf16"))


def test_accuracy_of_another_type_is_measured_where_images_are_at_hand(bundle: Path, built: Path) -> None:
    """On the validation images, by its own answers; later the manifest has it."""
    manifest, validation = read_manifest(bundle), trained_dataset(built / "run").validation
    float_ones = candidates(bundle, manifest, bundle / "classify.onnx", ["openvino"], validation)
    measured = speed._accuracy(speed_run(bundle), validation)
    [chosen] = [candidate for candidate in manifest.pruning.candidates if candidate.chosen]
    assert measured == pytest.approx(chosen.validation_accuracy, abs=1e-9)
    assert float_ones[0].accuracy(speed_run(bundle)) == manifest.pruning.dense_validation_accuracy
    del manifest.bench.variants[:]  # which has it where the machine has bf16
    manifest.bench.variants.add(model="pruned", engine="openvino", precision="bf16", validation_accuracy=0.25)
    assert speed._recorded_accuracy(manifest, "pruned", "openvino", "bf16") == 0.25
    assert speed._recorded_accuracy(manifest, "pruned", "cuda", "f16") is None


def speed_run(bundle: Path) -> speed.Run:
    """The bundle's graph on ONNX Runtime."""
    return open_session(bundle / "classify.onnx", "onnxruntime", "f32", 1).run
