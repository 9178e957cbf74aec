"""What if a head were silent: its mean over training images in place of what it gives, and all that follows from it.

The mean is taken over images and tokens, before the projection, as removal takes it (`pruning.compaction`): a silent
head is a removed one whose mean was folded. Unlike a contribution, the fall of a logit includes what the head does
through later parts.

Shape suffixes as in `export.attribution`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import HEADS
from headwise_exporter.model.cct import CCT, InputNormalisation

MEAN_IMAGES = 1000  # training images behind the means


@torch.no_grad()
def mean_heads(model: CCT, data: LabelledImages) -> dict[int, Tensor]:
    """Mean output of the heads (H*V,) of each encoder that has any, by the encoder, over images and tokens.

    In float64, over at most `MEAN_IMAGES` of the images, always the same.
    """
    names = {tap.encoder: tap.name for tap in model.tap_points() if tap.kind == HEADS and tap.encoder is not None}
    chosen = data.sample(MEAN_IMAGES)
    sums = {index: torch.zeros((), dtype=torch.float64) for index in names}
    with chosen.visited_by(model.eval()):
        for images, _ in chosen.batches():
            activations = model(images)[1]
            for index, name in names.items():
                sums[index] = sums[index] + activations[name].double().sum((0, 1)).cpu()
    return {index: sum_V / (len(chosen) * model.config.tokens) for index, sum_V in sums.items()}


class SilencedHeads(nn.Module):
    """uint8 images (B, Y, X, C) and the heads that are silent, bool (B, R), to the logits (B, K).

    Args:
        model: in evaluation mode.
        means: of every encoder with heads, as `mean_heads` gives them.
    """

    def __init__(self, normalise: InputNormalisation, model: CCT, means: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.normalise, self.model = normalise, model
        dtype = model.classifier.fc.weight.dtype
        for index, mean_V in means.items():
            heads = model.config.encoders[index].heads
            self.register_buffer(f"mean_HV_{index}", mean_V.to(dtype).unflatten(0, (heads, -1)).contiguous())

    def forward(self, images: Tensor, silenced: Tensor) -> Tensor:
        """Logits (B, K)."""
        shapes = self.model.config.encoders
        silent_BH = silenced.split([shape.heads for shape in shapes], dim=1)

        def edit(index: int, heads_BTV: Tensor) -> Tensor:
            heads_BTHV = heads_BTV.unflatten(-1, (shapes[index].heads, -1))
            silent_B1H1 = silent_BH[index].unsqueeze(1).unsqueeze(-1)
            return torch.where(silent_B1H1, self.get_buffer(f"mean_HV_{index}"), heads_BTHV).flatten(2)

        logits_BK: Tensor = self.model(self.normalise(images), edit_heads=edit)[0]
        return logits_BK
