"""What shapes cost in time, by a table of layers and measured whole."""

from dataclasses import replace

import pytest
import support
from headwise_exporter.export.latency import Latency, LatencyTable, latency_cost, layers_measured, measure_table
from headwise_exporter.model.config import CCTConfig, EncoderShape, count_macs
from headwise_exporter.pruning.search import smaller_shapes

CONFIG = replace(support.convolved(support.small_config()), encoders=(EncoderShape(4, 8, 8, 48),) * 2)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    """Of a small model's layers, measured."""
    bar = support.Bar("latency", None, "graphs")
    measured = measure_table(CONFIG, bar.advance)
    assert bar.done == layers_measured(CONFIG)
    return measured


def test_table_has_a_time_for_every_layer(table: LatencyTable) -> None:
    """Three convolutions, the parts of the encoders, which are alike, and what is left."""
    assert len(table.convolutions) == 3
    assert table.attentions.keys() == table.feed_forwards.keys() == {CONFIG.encoders[0]}
    assert table.norm > 0
    for points in (*table.convolutions, *table.attentions.values(), *table.feed_forwards.values()):
        assert points[0] == (0.0, 0.0)
        assert points[-1][1] > 0


def exact(config: CCTConfig) -> LatencyTable:
    """A table of a machine that takes a second for an operation, and nothing else."""
    points = ((0.0, 0.0), (1e9, 1e9))
    shapes = dict.fromkeys(config.encoders, points)
    return LatencyTable((points,) * len(config.map_sides), shapes, shapes, norm=0.0, rest=0.0, dense=config)


def test_times_of_layers_add_up_to_the_models() -> None:
    """On a machine whose time is the operations, every smaller shape saves what it has fewer, but for the pooling."""
    cost = latency_cost(exact)(CONFIG)
    for _, smaller in smaller_shapes(CONFIG, CONFIG):
        saved = count_macs(CONFIG) - count_macs(smaller)
        assert 8 * (cost.of(CONFIG) - cost.of(smaller)) == pytest.approx(saved)


def test_speedup_is_measured_of_any_smaller_shape(table: LatencyTable) -> None:
    """Also of one whose encoders lost their units."""
    latency = Latency(table)
    emptied = replace(CONFIG, encoders=(EncoderShape(0, 0, 0, 48), EncoderShape(4, 8, 8, 0)))
    assert latency.speedup(emptied) > 0
