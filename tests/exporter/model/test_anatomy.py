"""A model's description of its layers fits its tensors, whatever its shape."""

import pytest
import support
import torch
from headwise_exporter.model.cct import CCT

CONFIGS = {"even": support.small_config(), "uneven": support.uneven(support.small_config())}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> CCT:
    """A random model, with equal encoders and with others."""
    return support.random_model(CONFIGS[request.param])


def activations(model: CCT) -> dict[str, torch.Tensor]:
    """Activations of three random images."""
    with torch.no_grad():
        values: dict[str, torch.Tensor] = model(torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))[1]
    return values


def test_every_tap_point_is_an_activation_of_its_size(model: CCT) -> None:
    """In the order of the forward pass; only what the model pools itself has no tokens."""
    values = activations(model)
    taps = model.tap_points()
    assert [name for name in values if name in {tap.name for tap in taps}] == [tap.name for tap in taps]
    for tap in taps:
        assert values[tap.name].shape == ((3, tap.nodes) if tap.pooled else (3, 16, tap.nodes))
        assert tap.nodes % tap.heads == 0


def test_maskable_layer_reads_and_writes_its_tap_points(model: CCT) -> None:
    """Its weight has a row for each node that it writes and a column for each that it reads."""
    nodes = {tap.name: tap.nodes for tap in model.tap_points()}
    for layer in model.maskable_layers():
        outputs = model.config.labels if layer.outputs is None else nodes[layer.outputs]
        assert model.linear(layer.name).weight.shape == (outputs, nodes[layer.inputs])


def test_changing_the_rows_of_a_group_changes_its_activation_alone(model: CCT) -> None:
    """The rows that a group names are those that write it, and no other group of its encoder before it reads them."""
    before = activations(model)
    for group in model.unit_groups():
        changed = CCT(model.config).eval()
        changed.load_state_dict(model.state_dict())
        with torch.no_grad():
            changed.linear(group.written_by).weight[group.rows] += 1.0
        after = activations(changed)
        same_layer = [other for other in model.unit_groups() if other.written_by == group.written_by]
        for other in same_layer:
            differs = not torch.equal(before[other.name], after[other.name])
            attention = other.kind == "heads" and group.kind in ("query", "key")  # heads weigh tokens by these
            assert differs == (other.name == group.name or attention)


def test_columns_of_a_group_are_what_reads_it(model: CCT) -> None:
    """Of as many columns as there are units, with a bias that a mean can be folded into."""
    for group in model.unit_groups():
        assert activations(model)[group.name].shape[-1] == group.units
        if group.read_by is not None:
            reader = model.linear(group.read_by)
            assert reader.in_features == group.units
            assert reader.bias is not None
