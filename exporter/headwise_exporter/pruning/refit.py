"""Refit a convolution to the filters that are left of those it read.

A convolution here has no bias that the mean of a removed filter could fold into. So its weights are fitted anew: those
on the kept filters, W', that leave the least mean square of W p - W' p_S over patches p of training images, p_S being
the part of p that the kept filters give. With the second moments G = E[p p'] that is [ordinary least squares]

    W' = W G[:, S] (G[S, S])^-1

Shape suffixes: B batch, C channels read, O channels written, Y rows, X columns, P places, N = C * kernel * kernel
values of a patch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import FILTERS
from headwise_exporter.model.cct import CCT

IMAGES = 1000  # that patches are taken from
PATCHES_PER_VALUE = 40  # of a patch
RIDGE = 1e-6  # of the mean diagonal: filters that never fire leave G singular


def _places(patches_BNP: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """Patches (N, B * places) at places of each image drawn at random, enough over all images."""
    _, values, places = patches_BNP.shape
    wanted = max(1, PATCHES_PER_VALUE * values // images)
    if wanted < places:
        patches_BNP = patches_BNP[:, :, torch.randperm(places, generator=generator)[:wanted].to(patches_BNP.device)]
    return patches_BNP.transpose(0, 1).flatten(1)


@torch.no_grad()
def collect_patches(model: CCT, data: LabelledImages, seed: int = 0) -> dict[str, Tensor]:
    """Second moments (N, N), float64, of the patches that what reads each group of filters sees, by the group's name.

    At most `IMAGES` of the images are looked at.
    """
    readers = {
        group.name: conv
        for group in model.unit_groups()
        if group.kind == FILTERS and isinstance(conv := model.layer(group.read_by or ""), nn.Conv2d)
    }
    if not readers:
        return {}
    seen, generator = data.sample(IMAGES, seed), torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(readers, 0)
    model.eval()
    with seen.visited_by(model):
        for images_BCYX, _ in seen.batches():
            _, activations = model(images_BCYX)
            for name, conv in readers.items():
                patches_BNP = functional.unfold(
                    activations[name],
                    conv.kernel_size,
                    padding=(int(conv.padding[0]), int(conv.padding[1])),
                    stride=conv.stride,
                )
                patches_NP = _places(patches_BNP, len(seen), generator)
                second_NN = (patches_NP @ patches_NP.T).double().cpu()
                sums[name] = sums[name] + second_NN if name in sums else second_NN
                counts[name] += patches_NP.shape[1]
    return {name: second_NN / counts[name] for name, second_NN in sums.items()}


def refitted(conv: nn.Conv2d, second_NN: Tensor, kept_C: Tensor) -> Tensor:
    """The convolution's weight (O, C, kernel, kernel), fitted on the kept channels and zero on the others.

    Args:
        second_NN: second moments of the patches.
        kept_C: Boolean.
    """
    weight_ON = conv.weight.detach().double().flatten(1).cpu()
    kept_N = kept_C.repeat_interleave(weight_ON.shape[1] // len(kept_C))
    own_SS = second_NN[kept_N][:, kept_N]
    own_SS = own_SS + RIDGE * own_SS.diagonal().mean() * torch.eye(len(own_SS), dtype=own_SS.dtype)
    fitted_OS = torch.linalg.solve(own_SS, second_NN[kept_N] @ weight_ON.T).T
    result_ON = torch.zeros_like(weight_ON)
    result_ON[:, kept_N] = fitted_OS
    return result_ON.view_as(conv.weight).to(conv.weight)
