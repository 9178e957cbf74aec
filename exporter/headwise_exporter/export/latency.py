"""What a shape of the model costs in time: layers measured once, whole models measured where it matters.

A table holds the time of each layer of the dense model at full, at half and at no size, as ONNX Runtime runs it in
float32 on one thread; the time of any smaller shape is read off between these, by its multiply-accumulates, and summed.
In float32 layers run close to the processor's peak, so that is near what is measured; how near, `Latency.speedup` says,
which exports and times a whole model beside the dense one.

Weights are random: they do not change the time.

Shape suffixes as in `model.cct`.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from headwise_exporter.bench.sessions import open_session
from headwise_exporter.bench.timing import Timed, interleaved_seconds
from headwise_exporter.engines import ONNXRUNTIME
from headwise_exporter.export.graphs import to_onnx
from headwise_exporter.model.cct import CCT, Encoder, Tokenizer
from headwise_exporter.model.config import CCTConfig, EncoderShape, count_macs
from headwise_exporter.progress import Advance, unseen
from headwise_exporter.pruning.search import Cost

BATCH = 8  # images
ROUNDS = 15  # runs of each graph, whose median counts
Points = tuple[tuple[float, float], ...]  # multiply-accumulates and seconds, ascending


class _Tokens(nn.Module):
    """An encoder without its intermediates."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x_BTD: Tensor) -> Tensor:
        tokens_BTD: Tensor = self.encoder(x_BTD)[0]
        return tokens_BTD


class _Logits(nn.Module):
    """A model without its activations."""

    def __init__(self, model: CCT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCYX: Tensor) -> Tensor:
        logits_BK: Tensor = self.model(images_BCYX)[0]
        return logits_BK


Run = Callable[[], object]


def open_graph(module: nn.Module, inputs_B: Tensor) -> Run:
    """What runs a module once on ONNX Runtime, in float32 on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save_model(to_onnx(module, {"inputs": inputs_B}, ["outputs"]), path)
        opened = open_session(path, ONNXRUNTIME, "f32", 1)
    inputs = inputs_B.numpy()
    return lambda: opened.run(inputs)


def median_seconds(runs: Sequence[Run]) -> list[float]:
    """Of each run, all in turn."""

    def timed(run: Run) -> Timed:
        return lambda images: run()

    times = interleaved_seconds([timed(run) for run in runs], np.empty(0), ROUNDS)
    return [float(value) for value in np.median(times, axis=0)]


def _half(size: int) -> int:
    return max(1, size // 2)


def _conv_macs(config: CCTConfig, layer: int) -> float:
    """Of one convolution of the tokenizer."""
    channels = (config.channels, *config.conv_hidden_channels, config.width)
    side = config.conv_side((config.image_size, *config.map_sides)[layer])
    return float(side * side * channels[layer] * channels[layer + 1] * config.conv_kernel**2)


def _encoder_macs(config: CCTConfig, shape: EncoderShape) -> float:
    """Of one encoder."""
    return float(count_macs(replace(config, encoders=(shape,))) - count_macs(replace(config, encoders=())))


def _attention(shape: EncoderShape) -> EncoderShape:
    return replace(shape, feed_forward=0)


def _feed_forward(shape: EncoderShape) -> EncoderShape:
    return EncoderShape(0, 0, 0, shape.feed_forward)


NOTHING = EncoderShape(0, 0, 0, 0)


def _between(points: Points, macs: float) -> float:
    """Seconds at so many multiply-accumulates: on the line through the two nearest points."""
    counts, seconds = zip(*points, strict=True)
    index = int(np.clip(np.searchsorted(counts, macs), 1, len(points) - 1))
    share = (macs - counts[index - 1]) / (counts[index] - counts[index - 1])
    return max(0.0, float(seconds[index - 1] + share * (seconds[index] - seconds[index - 1])))


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of `BATCH` images in each layer."""

    convolutions: tuple[Points, ...]
    attentions: dict[EncoderShape, Points]  # by the dense encoder
    feed_forwards: dict[EncoderShape, Points]
    norm: float  # of an encoder without units
    rest: float
    dense: CCTConfig

    def seconds(self, config: CCTConfig) -> float:
        """Of a shape that is the dense one or smaller."""
        total = self.rest
        for layer, points in enumerate(self.convolutions):
            total += _between(points, _conv_macs(config, layer))
        for dense, shape in zip(self.dense.encoders, config.encoders, strict=True):
            total += self.norm
            for part, points in ((_attention, self.attentions[dense]), (_feed_forward, self.feed_forwards[dense])):
                if (macs := _encoder_macs(config, part(shape))) > 0:
                    total += _between(points, macs)
        return total


def _graphs(config: CCTConfig, advance: Advance) -> Iterator[tuple[tuple[Any, ...], float, Run]]:
    """Key, multiply-accumulates and graph of every layer and size that is measured."""

    def opened(note: str, module: nn.Module, *shape: int) -> Run:
        advance(0, note)
        graph = open_graph(module.eval(), torch.randn(BATCH, *shape))
        advance()
        return graph

    side, channels = config.image_size, config.channels
    sides = (side, *config.map_sides)
    halved = replace(config, conv_hidden_channels=tuple(map(_half, config.conv_hidden_channels)))
    for shapes in (halved, config) if config.conv_hidden_channels else (config,):
        inputs = (channels, *shapes.conv_hidden_channels)
        for layer, block in enumerate(Tokenizer(shapes).conv_layers):
            graph = opened(f"convolution {layer + 1}", block, inputs[layer], sides[layer], sides[layer])
            yield ("convolution", layer), _conv_macs(shapes, layer), graph
    tokens = (config.tokens, config.width)
    yield ("norm",), 0.0, opened("norms", _Tokens(Encoder(config, NOTHING, 0.0, 0.0)), *tokens)
    for dense in dict.fromkeys(config.encoders):
        half = EncoderShape(_half(dense.heads), dense.query_key_dim, dense.value_dim, _half(dense.feed_forward))
        for part, name in ((_attention, "attention"), (_feed_forward, "feed-forward")):
            for shape in (part(half), part(dense)):
                graph = opened(name, _Tokens(Encoder(config, shape, 0.0, 0.0)), *tokens)
                yield (name, dense), _encoder_macs(config, shape), graph
    yield ("whole",), float(count_macs(config)), opened("dense model", _Logits(CCT(config)), channels, side, side)


def layers_measured(config: CCTConfig) -> int:
    """How many graphs `measure_table` exports, which is what takes its time."""
    convolutions = len(config.conv_hidden_channels) + 1
    return convolutions * (2 if config.conv_hidden_channels else 1) + 2 + 4 * len(set(config.encoders))


@contextmanager
def _one_thread() -> Iterator[None]:
    """What torch computes meanwhile does not disturb."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measure_table(dense: CCTConfig, advance: Advance = unseen) -> LatencyTable:
    """Export and time the layers of the dense model; `advance` counts `layers_measured`."""
    with _one_thread():
        measured = list(_graphs(dense, advance))
        seconds = median_seconds([graph for _, _, graph in measured])
    by_key: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for (key, macs, _), value in zip(measured, seconds, strict=True):
        by_key.setdefault(key, []).append((macs, value))
    norm = by_key["norm",][0][1]

    def points(key: tuple[Any, ...], without: float) -> Points:
        own = [(macs, max(0.0, value - without)) for macs, value in by_key[key]]
        return tuple(sorted({0.0: 0.0, **dict(own)}.items()))

    shapes = dict.fromkeys(dense.encoders)
    table = LatencyTable(
        convolutions=tuple(points(("convolution", layer), 0.0) for layer in range(len(dense.map_sides))),
        attentions={shape: points(("attention", shape), norm) for shape in shapes},
        feed_forwards={shape: points(("feed-forward", shape), norm) for shape in shapes},
        norm=norm,
        rest=0.0,
        dense=dense,
    )
    return replace(table, rest=max(0.0, by_key["whole",][0][1] - table.seconds(dense)))


@dataclass(frozen=True)
class Latency:
    """What shapes cost on this machine, beside the dense one."""

    table: LatencyTable

    @cached_property
    def _dense(self) -> Run:
        return self._graph(self.table.dense)

    def _graph(self, config: CCTConfig) -> Run:
        return open_graph(
            _Logits(CCT(config)).eval(), torch.randn(BATCH, config.channels, config.image_size, config.image_size)
        )

    def speedup(self, config: CCTConfig) -> float:
        """Time of the dense model over that of the shape, both whole and timed in turn."""
        with _one_thread():
            dense, small = median_seconds([self._dense, self._graph(config)])
        return dense / small


def latency_cost(measured: Callable[[CCTConfig], LatencyTable]) -> Callable[[CCTConfig], Cost]:
    """Time of one image on this machine, for a search."""

    def cost(dense: CCTConfig) -> Cost:
        latency = Latency(measured(dense))
        return Cost("latency", lambda config: latency.table.seconds(config) / BATCH, latency.speedup)

    return cost
