"""`flowers102`: 8,189 photographs of flowers with 102 labels.

Source: Nilsback and Zisserman, "Automated flower classification over a large number of classes", 2008. Read from the
official files, `flowers-102/{jpg/image_00001.jpg, ..., imagelabels.mat, setid.mat}`, which are fetched where they are
not there.

Protocols:
- `official`: 1,020 training images, ten of each label; the 1,020 validation images are the validation split; 6,149 test
  images;
- `official-trainval`: training on the training and validation images, but for two validation images of each label,
  chosen with a fixed seed, which are the validation split: 1,836, 204 and the same 6,149 [our choice].

Both protocols share one file of decoded images, in which every split of either is one slice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwise_exporter.data.base import (
    Dataset,
    DatasetError,
    DatasetSettings,
    Split,
    SplitName,
    assemble,
    shuffled_by_label,
)
from headwise_exporter.data.cache import decoded
from headwise_exporter.data.download import RemoteFile, data_folder, fetch, unpack
from headwise_exporter.progress import Progress

IMAGE_SIZE = 224
PROTOCOLS = ("official", "official-trainval")
VALIDATION_PER_LABEL = 2  # of official-trainval
IMAGES = {"trnid": 1020, "valid": 1020, "tstid": 6149}  # by the name of the list in setid.mat

FOLDER = "flowers-102"
BASE_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
PHOTOGRAPHS = RemoteFile(f"{BASE_URL}/102flowers.tgz", md5="52808999861908f626f3c1f4e79d11fa")
LABELS = RemoteFile(f"{BASE_URL}/imagelabels.mat", md5="e0620be6f572b9609742df49c70aed4d")
SETS = RemoteFile(f"{BASE_URL}/setid.mat", md5="a5357ecc9cb78c4bef273ce3793fc85c")
ADVICE = "Remove it, so that it is fetched again."

# In the order of imagelabels.mat, which has numbers only. Slips of the lists in circulation are put right: "barbeton
# daisy", "lotus lotus", "pink-yellow dahlia?", spaces at the end.
_TABLE = """
    pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold; tiger lily;
    moon orchid; bird of paradise; monkshood; globe thistle; snapdragon; colt's foot; king protea; spear thistle;
    yellow iris; globe-flower; purple coneflower; peruvian lily; balloon flower; giant white arum lily; fire lily;
    pincushion flower; fritillary; red ginger; grape hyacinth; corn poppy; prince of wales feathers;
    stemless gentian; artichoke; sweet william; carnation; garden phlox; love in the mist; mexican aster;
    alpine sea holly; ruby-lipped cattleya; cape flower; great masterwort; siam tulip; lenten rose; barberton daisy;
    daffodil; sword lily; poinsettia; bolero deep blue; wallflower; marigold; buttercup; oxeye daisy;
    common dandelion; petunia; wild pansy; primula; sunflower; pelargonium; bishop of llandaff; gaura; geranium;
    orange dahlia; pink-yellow dahlia; cautleya spicata; japanese anemone; black-eyed susan; silverbush;
    californian poppy; osteospermum; spring crocus; bearded iris; windflower; tree poppy; gazania; azalea;
    water lily; rose; thorn apple; morning glory; passion flower; lotus; toad lily; anthurium; frangipani; clematis;
    hibiscus; columbine; desert-rose; tree mallow; magnolia; cyclamen; watercress; canna lily; hippeastrum;
    bee balm; ball moss; foxglove; bougainvillea; camellia; mallow; mexican petunia; bromelia; blanket flower;
    trumpet creeper; blackberry lily
"""
LABEL_NAMES = tuple(name.strip() for name in _TABLE.replace("\n", " ").split(";"))


def _read_list(path: Path, name: str) -> NDArray[np.int64]:
    """A list of whole numbers from a MATLAB file."""
    from scipy.io import loadmat  # a third of a second to import, which `exporter --help` need not wait for

    try:
        values: Any = loadmat(str(path), variable_names=[name])[name]
        return np.asarray(values).reshape(-1).astype(np.int64)
    except Exception as error:  # a damaged file can raise any
        raise DatasetError(f"{path}: expected a MATLAB file with `{name}`, found: {error}. {ADVICE}") from error


def _read_numbers(folder: Path) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """Numbers of the images in each official split, counted from 1, and the labels of all images, counted from 0."""
    labels_N = _read_list(folder / LABELS.name, "labels") - 1
    sets = {name: _read_list(folder / SETS.name, name) for name in IMAGES}
    counts = {name: len(numbers) for name, numbers in sets.items()}
    numbers = np.sort(np.concatenate(list(sets.values())))
    if counts != IMAGES or not np.array_equal(numbers, np.arange(1, sum(IMAGES.values()) + 1)):
        raise DatasetError(f"{folder / SETS.name}: expected {IMAGES}, each image once, found {counts}. {ADVICE}")
    if len(labels_N) != len(numbers) or set(labels_N.tolist()) != set(range(len(LABEL_NAMES))):
        raise DatasetError(
            f"{folder / LABELS.name}: expected labels 1 to {len(LABEL_NAMES)} for {len(numbers):,} images,"
            f" found {len(set(labels_N.tolist()))} labels for {len(labels_N):,}. {ADVICE}"
        )
    return sets, labels_N


def _order(
    sets: Mapping[str, NDArray[np.int64]], labels_N: NDArray[np.int64], protocol: str
) -> tuple[NDArray[np.int64], dict[SplitName, slice]]:
    """Numbers of all images in the order of the cache, the same for both protocols, and where each split lies in it."""
    train, validation, test = (sets[name] for name in ("trnid", "valid", "tstid"))
    shuffled = shuffled_by_label(labels_N[validation - 1], len(LABEL_NAMES))
    held_out = np.sort(np.concatenate([indices[:VALIDATION_PER_LABEL] for indices in shuffled]))
    order = np.concatenate([train, np.delete(validation, held_out), validation[held_out], test])
    second = len(train) + len(validation)
    first = len(train) if protocol == "official" else second - len(held_out)
    return order, {"train": slice(first), "validation": slice(first, second), "test": slice(second, None)}


def _find(settings: DatasetSettings, progress: Progress) -> Path:
    folder = data_folder(settings) / FOLDER
    missing = [file for file in (LABELS, SETS) if not (folder / file.name).is_file()]
    if not (folder / "jpg").is_dir():
        missing.append(PHOTOGRAPHS)
    if missing:
        fetch(missing, folder, progress)
    if PHOTOGRAPHS in missing:
        unpack(folder / PHOTOGRAPHS.name, folder / "jpg", progress)
    return folder


def load(settings: DatasetSettings, progress: Progress) -> Dataset:
    """The photographs, as (N, size, size, 3).

    Raises:
        DatasetError: the files are not there and cannot be fetched, or are not the official ones.
        OutputError: the cache cannot be written.
    """
    folder = _find(settings, progress)
    sets, labels_N = _read_numbers(folder)
    protocol = settings.protocol or PROTOCOLS[0]
    order, slices = _order(sets, labels_N, protocol)
    files = [folder / "jpg" / f"image_{number:05d}.jpg" for number in order]
    images_NYXC = decoded("flowers102", folder, files, settings.image_size or IMAGE_SIZE, progress)
    splits = {
        name: Split(images_NYXC[where], labels_N[order[where] - 1], order[where]) for name, where in slices.items()
    }
    protocols = {
        "official": "official",
        "official-trainval": "official test; training and validation images for training, but for"
        f" {VALIDATION_PER_LABEL} a label, seed 0, that stay validation images [our choice]",
    }
    return assemble(settings, "flowers102", protocols[protocol], LABEL_NAMES, splits, progress)
