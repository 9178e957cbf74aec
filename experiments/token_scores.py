"""How much each method says that each token, pixel or patch matters for the label that a model predicts.

Every method scores the predicted label's logit. Gradient methods and occlusion are Captum's (arXiv:2009.07896).
Grad-CAM (arXiv:1610.02391) is taken at the tokenizer's last maps and at what the last encoder's attention reads; its
sign is kept, since ReLU would make patches equal that it can tell apart. On a random model these maps and those of
grad-cam 1.5.7 before its ReLU are the same to 5e-7 (tried once; grad-cam needs a torchvision that fits the torch that
is installed). Attention rollout (arXiv:2005.00928) starts from the pooling weights and knows no label.

A score of pixels is summed over the pixels of a patch. Costs are passes through the model for one image, once the label
is known: `exact maps` give all their rows in one.

Shape suffixes as in `deletion_curves`, and H heads, R heads of all encoders, D width of the residual stream.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from captum.attr import FeatureAblation, InputXGradient, IntegratedGradients, LayerGradCam
from deletion_curves import patch_centres
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.maps import TokenMaps
from headwise_exporter.model.anatomy import ATTENTION, activation_name
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import Probe
from torch import Tensor, nn

INTEGRATION_STEPS = 16
ALL_PARTS, CENTRED_PARTS = "exact maps, all parts", "exact maps, all parts, less the mean of all labels"
ALL_HEADS, LAST_ENCODER = "exact maps, all heads", "exact maps, heads of the last encoder"
STRONGEST_HEAD, REVERSED = "exact maps, strongest head", "exact maps, all heads, reversed"
ROLLOUT = "attention rollout"
GRAD_CAM, GRAD_CAM_CONVOLUTION = "Grad-CAM, last encoder", "Grad-CAM, last convolution"
INTEGRATED_GRADIENTS, INPUT_X_GRADIENT = "integrated gradients", "input x gradient"
OCCLUSION, CENTRE, RANDOM = "occlusion", "centre of the photo", "random"
EXACT = (ALL_PARTS, CENTRED_PARTS, ALL_HEADS, LAST_ENCODER, STRONGEST_HEAD, REVERSED)
METHODS = (
    *(OCCLUSION, *EXACT, ROLLOUT, GRAD_CAM, GRAD_CAM_CONVOLUTION),
    *(INTEGRATED_GRADIENTS, INPUT_X_GRADIENT, CENTRE, RANDOM),
)
Scores = dict[str, Tensor]


def passes(method: str, tokens: int) -> tuple[int, int]:
    """Forward and backward passes of one image."""
    costs = dict.fromkeys(EXACT, (1, 0)) | {
        OCCLUSION: (tokens + 1, 0),
        ROLLOUT: (1, 0),
        GRAD_CAM: (1, 1),
        GRAD_CAM_CONVOLUTION: (1, 1),
        INTEGRATED_GRADIENTS: (INTEGRATION_STEPS, INTEGRATION_STEPS),
        INPUT_X_GRADIENT: (1, 1),
    }
    return costs.get(method, (0, 0))


@dataclass(frozen=True)
class Images:
    """What is to be explained, a batch of it."""

    pixels_BYXC: Tensor  # uint8
    normalised_BCYX: Tensor
    labels_B: Tensor  # that the model predicts
    mean: tuple[float, ...]  # of the normalisation
    std: tuple[float, ...]


def exact_maps(model: CCT, images: Images) -> Scores:
    """The split of the logit over the tokens that each part read (B, T); probes, which it does not need, are random."""
    shapes = [shape for shape in model.config.encoders if shape.heads]
    probes = [Probe(shape.heads * shape.value_dim, model.config.labels) for shape in shapes]
    every_label_BK = torch.arange(model.config.labels).expand(len(images.labels_B), -1)
    with torch.no_grad():
        maps = TokenMaps(ExactSplit(model, probes, images.mean, images.std))(images.pixels_BYXC, every_label_BK)
    parts = (maps["head_maps"], maps["feed_forward_maps"], maps["embedding_maps"].unsqueeze(1))
    every_part_BKT = torch.cat(parts, 1).sum(1)
    column_B1 = torch.arange(len(images.labels_B)), images.labels_B
    heads_BRT = maps["head_maps"].transpose(1, 2)[column_B1]
    strongest_B = heads_BRT.sum(-1).argmax(1)
    return {
        ALL_PARTS: every_part_BKT[column_B1],
        CENTRED_PARTS: every_part_BKT[column_B1] - every_part_BKT.mean(1),
        ALL_HEADS: heads_BRT.sum(1),
        LAST_ENCODER: heads_BRT[:, -shapes[-1].heads :].sum(1),
        STRONGEST_HEAD: heads_BRT[column_B1[0], strongest_B],
        REVERSED: -heads_BRT.sum(1),
    }


def rollout(model: CCT, images: Images) -> Scores:
    """Pooling weights times each encoder's mean attention, half of it the identity (B, T)."""
    with torch.no_grad():
        activations = model(images.normalised_BCYX, with_attention=True)[1]
    scores_BT: Tensor = activations["pooling_weights"]
    for index in reversed(range(len(model.encoders))):
        attention_BTT = activations[activation_name(index, ATTENTION)].mean(1)
        scores_BT = (scores_BT + (scores_BT.unsqueeze(1) @ attention_BTT).squeeze(1)) / 2
    return {ROLLOUT: scores_BT}


class Transposed(nn.Module):
    """Tokens as a map with the channels first, as Grad-CAM takes it, and back."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The last two axes exchanged."""
        return x_BTD.mT


def logits_of(model: CCT) -> Callable[[Tensor], Tensor]:
    """The model as Captum takes it."""
    return lambda images_BCYX: model(images_BCYX)[0]


def grad_cam(model: CCT, images: Images) -> Scores:
    """At what the last encoder's attention reads (B, T)."""
    seamed = copy.deepcopy(model)
    last, transposed = seamed.encoders[-1], Transposed()
    setattr(last, "pre_norm", nn.Sequential(last.pre_norm, transposed, Transposed()))  # noqa: B010  # mypy knows it as another type
    cam = LayerGradCam(logits_of(seamed), transposed)
    return {GRAD_CAM: cam.attribute(images.normalised_BCYX, images.labels_B).detach().flatten(1)}


def grad_cam_convolution(model: CCT, images: Images) -> Scores:
    """At the tokenizer's last maps (B, T)."""
    cam = LayerGradCam(logits_of(model), model.tokenizer.conv_layers[-1])
    return {GRAD_CAM_CONVOLUTION: cam.attribute(images.normalised_BCYX, images.labels_B).detach().flatten(1)}


def integrated_gradients(model: CCT, images: Images) -> Scores:
    """From the mean colour on (B, Y, X); they add up to what the logit is above that of an image without anything."""
    scores_BCYX = IntegratedGradients(logits_of(model)).attribute(
        images.normalised_BCYX, 0.0, images.labels_B, n_steps=INTEGRATION_STEPS, internal_batch_size=64
    )
    return {INTEGRATED_GRADIENTS: scores_BCYX.detach().sum(1)}


def input_x_gradient(model: CCT, images: Images) -> Scores:
    """Of each pixel (B, Y, X), its distance to the mean colour times the gradient."""
    inputs_BCYX = images.normalised_BCYX.clone().requires_grad_()
    return {INPUT_X_GRADIENT: InputXGradient(logits_of(model)).attribute(inputs_BCYX, images.labels_B).detach().sum(1)}


# Each gives the scores of one or more methods for a batch.
SOURCES = (exact_maps, rollout, grad_cam, grad_cam_convolution, integrated_gradients, input_x_gradient)


def occlusion(model: CCT, images: Images, patch_YX: Tensor, fill_BCYX: Tensor) -> Tensor:
    """The fall of the logit without each patch alone (B, T)."""
    with torch.no_grad():
        fall_BCYX = FeatureAblation(logits_of(model)).attribute(
            images.normalised_BCYX, fill_BCYX, images.labels_B, feature_mask=patch_YX
        )
    first_T = torch.stack([(patch_YX == token).flatten().nonzero()[0, 0] for token in range(int(patch_YX.max()) + 1)])
    fall_BT: Tensor = fall_BCYX[:, 0].flatten(1)[:, first_T]
    return fall_BT


def in_patches(scores: Tensor, patch_YX: Tensor) -> Tensor:
    """Scores of tokens as they are (B, T), those of pixels (B, Y, X) summed over patches."""
    if scores.dim() == 2:
        return scores
    empty_BT = scores.new_zeros(len(scores), int(patch_YX.max()) + 1)
    return torch.index_add(empty_BT, 1, patch_YX.flatten(), scores.flatten(1))


def nearness(patch_YX: Tensor) -> Tensor:
    """Of each patch to the centre of the photo (T,)."""
    middle = (patch_YX.shape[0] - 1) / 2
    distance_T: Tensor = (patch_centres(patch_YX) - middle).norm(dim=1)
    return -distance_T
