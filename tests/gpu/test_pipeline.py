"""Training, measuring and pruning on a GPU."""

from pathlib import Path

import pytest
import support
import torch
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import load_measurements
from headwise_exporter.nodes.snp import ProbeSettings, measure, train_probes
from headwise_exporter.pruning.criteria import collect_moments
from headwise_exporter.stages.build import evaluate_run
from headwise_exporter.stages.run import DENSE, PRUNED
from headwise_exporter.training.evaluation import predict
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings

CUDA = torch.device("cuda")


def test_whole_run_on_a_gpu(tmp_path: Path) -> None:
    """Up to the export; everything that is kept is on the CPU, and the models recognise some digits."""
    data = support.make_run(tmp_path / "run")
    measurements = load_measurements(tmp_path / "run" / "dense.measurements.safetensors")
    assert {node.label_means_KN.device.type for node in measurements.nodes.values()} == {"cpu"}
    found = {accuracy.model: accuracy.accuracy for accuracy in evaluate_run(tmp_path / "run", data, "test")}
    assert found[Path(DENSE).stem] > 0.5
    assert found[Path(PRUNED).stem] > 0.3


def test_training_on_a_gpu_has_the_loss_curve_of_the_cpu() -> None:
    """In float32 the first epochs agree; the model is back where it was."""
    losses = []
    for device in ("cpu", CUDA):
        torch.manual_seed(0)
        model = CCT(support.small_config())
        data = support.random_images(torch.arange(70) % 10).to(torch.device(device))
        settings = TrainingSettings(epochs=2, batch_size=16, optimizer="adamw", warm_up_epochs=1)
        losses.append([epoch.loss for epoch in train(model, data, settings).epochs])
        assert model.classifier.fc.weight.device.type == "cpu"
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_measurements_and_moments_are_those_of_the_cpu() -> None:
    """Label means and running sums of the same model on the same images."""
    model, data = support.random_model(), support.random_images(torch.arange(50) % 10)
    probes = train_probes(model, data, ProbeSettings(epochs=1))
    on_cpu, on_gpu = measure(model, probes, data), measure(model, probes, data.to(CUDA))
    for name, node in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].label_means_KN, node.label_means_KN, rtol=1e-3, atol=1e-4)
    moments = collect_moments(model, data.to(CUDA))
    for name, expected in collect_moments(model, data).items():
        torch.testing.assert_close(moments[name].mean(), expected.mean(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(predict(model, data.to(CUDA)).cpu(), predict(model, data), rtol=1e-3, atol=1e-3)
