"""The state that models are in while they are trained, and only then: device, layout, and what has gradients."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from headwise_exporter.data.images import LabelledImages


@contextmanager
def _channels_innermost(model: nn.Module) -> Iterator[None]:
    """Makes convolutions and pooling faster: images follow the weights."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub leaves it out


@contextmanager
def models_at_work(data: LabelledImages, models: Sequence[nn.Module]) -> Iterator[None]:
    """The models are on the images' device and laid out for speed."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(data.visited_by(model))
            stack.enter_context(_channels_innermost(model))
        yield


@contextmanager
def others_frozen(model: nn.Module, learnt: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients that nothing learns from are not computed, and do not enter the clipped norm."""
    learning = set(map(id, learnt))
    frozen = [parameter for parameter in model.parameters() if id(parameter) not in learning]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
