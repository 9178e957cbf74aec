"""What a run's models give for the validation images: how many they have right, and what the pruned one mistakes.

Plain values, from which a page is made without the images. Only the chosen thumbnails are images, and only where they
are wanted.

Shape suffixes: N images, K labels, E errors, Y rows, X columns, C channels.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headwise_exporter.data.thumbnails import encoded, kind_of, picture
from headwise_exporter.model.cct import CCT, count_parameters
from headwise_exporter.model.config import count_macs

SHOWN_ERRORS = 24  # the most confident ones [our choice]
THUMBNAIL_PIXELS = 96  # a side, at most [our choice]


@dataclass(frozen=True)
class Error:
    """An image whose first label is wrong."""

    image: int  # by its index
    label: int
    predicted: int
    probability: float  # that the model gives the predicted label
    label_probability: float  # and the image's own


def confident_errors(logits_NK: Tensor, labels_N: Tensor, most: int = SHOWN_ERRORS) -> list[Error]:
    """The errors in whose label the model is surest, the surest first; ties in the order of the images."""
    probabilities_NK = logits_NK.double().softmax(1)
    surest_N, first_N = probabilities_NK.max(1)
    wrong_E = (first_N != labels_N).nonzero().flatten()
    order_E = wrong_E[surest_N[wrong_E].argsort(descending=True, stable=True)][:most]
    return [
        Error(
            image=image,
            label=int(labels_N[image]),
            predicted=int(first_N[image]),
            probability=float(surest_N[image]),
            label_probability=float(probabilities_NK[image, labels_N[image]]),
        )
        for image in order_E.tolist()
    ]


def mistakes(first_N: Tensor, labels_N: Tensor) -> list[list[int]]:
    """`[label, first label, images]` of every pair of two labels that occurs, the most frequent first."""
    wrong_N = first_N != labels_N
    pairs, counts = torch.stack((labels_N[wrong_N], first_N[wrong_N])).unique(dim=1, return_counts=True)
    counted = [[*pair, images] for pair, images in zip(pairs.T.tolist(), counts.tolist(), strict=True)]
    return sorted(counted, key=lambda mistake: -mistake[2])


def confusion_matrix(record: Mapping[str, Any]) -> NDArray[np.int64]:
    """How many images of each label (rows) have which first label (columns): (K, K), from a record."""
    matrix_KK = np.diag(np.asarray(record["correct_K"]))
    for label, first, images in record["mistakes"]:
        matrix_KK[label, first] = images
    return matrix_KK


def thumbnail(image_YXC: NDArray[np.uint8]) -> str:
    """A small copy of an image as a data URI."""
    image = picture(image_YXC)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    kind = kind_of(*image.size)
    return f"data:image/{kind};base64,{base64.b64encode(encoded(image, kind)).decode('ascii')}"


def as_record(
    models: Mapping[str, CCT],
    logits: Mapping[str, Tensor],
    labels_N: Tensor,
    label_names: Sequence[str],
    images_NYXC: NDArray[np.uint8] | None,
) -> dict[str, Any]:
    """All of it as plain values.

    Args:
        models: `dense` and `pruned`.
        logits: theirs (N, K), on the CPU as the labels.
        images_NYXC: to take the thumbnails of the errors from; None for none.
    """
    first = {name: logits_NK.argmax(1) for name, logits_NK in logits.items()}
    right = {name: first_N == labels_N for name, first_N in first.items()}
    counted = partial(torch.bincount, minlength=len(label_names))
    return {
        "label_names": list(label_names),
        "images": len(labels_N),
        "models": {
            name: {
                "correct": int(right[name].sum()),
                "parameters": count_parameters(model),
                "macs": count_macs(model.config),
            }
            for name, model in models.items()
        },
        "lost": int((right["dense"] & ~right["pruned"]).sum()),  # images that the dense model alone has right
        "won": int((right["pruned"] & ~right["dense"]).sum()),
        "images_K": counted(labels_N).tolist(),
        "predicted_K": counted(first["pruned"]).tolist(),
        "correct_K": counted(labels_N[right["pruned"]]).tolist(),
        "mistakes": mistakes(first["pruned"], labels_N),
        "errors": [
            {**asdict(error), "picture": None if images_NYXC is None else thumbnail(images_NYXC[error.image])}
            for error in confident_errors(logits["pruned"], labels_N)
        ],
        "pictures": images_NYXC is not None,
    }


def without_pictures(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record that holds no images."""
    errors = [{**error, "picture": None} for error in record["errors"]]
    return {**record, "errors": errors, "pictures": False}
