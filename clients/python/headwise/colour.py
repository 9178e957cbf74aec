"""Colours as an image's ICC profile means them, in sRGB.

Relative colorimetric with black point compensation: what both spaces can show stays as it is, and black stays black
[our choice; the usual default of image editors]. A profile that changes no colour by more than a grey level is sRGB
under one of its many names, and changes nothing. A profile that is damaged, of a kind that cannot be converted, or of
other channels than the image has (CMYK in an RGB file) says nothing about the image's colours and is ignored.

Needs Pillow with LittleCMS, as its wheels have it.
"""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

CHANNELS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # a profile's colour space, by the mode of an image
SAME = 1  # grey levels that two conversions of the same colours differ by
MAX_PROFILE_BYTES = 16 * 2**20  # the largest in use, of printers, have 3 MB
KEPT_BYTES = 32 * 2**20  # of conversions, for the next image; a folder of photos has a few profiles
TABLE_BYTES = 2**20  # of a conversion: LittleCMS makes tables of half of that at most, whatever the profile
UNPACKED = 2  # bytes for one of a profile, where a conversion goes on with the profile's own tables
ENTRY_BYTES = 2**10  # of a profile that is known to change nothing

SRGB = ImageCms.createProfile("sRGB")
Conversion = ImageCms.ImageCmsTransform | None  # None where nothing is to be done


def _probe(mode: str) -> Image.Image:
    """Every 16th value of each of three channels, or all greys."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(1, 256))
    steps = np.linspace(0, 255, 17).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3))


def _conversion(profile: bytes | None, mode: str) -> Conversion:
    """From a profile's colours to sRGB; from CIE L*a*b* where there is no profile."""
    try:
        if profile is None:
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space.strip() != CHANNELS[mode]:
                return None
        conversion = ImageCms.buildTransform(
            source,
            SRGB,
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode in ("L", "RGB"):
        probe = _probe(mode)
        change = np.asarray(conversion.apply(probe), dtype=int) - np.asarray(probe.convert("RGB"), dtype=int)
        if np.abs(change).max() <= SAME:
            return None
    return conversion


class Conversions:
    """The conversions that were used last, as many as fit into so many bytes. Safe to use by several threads.

    Profiles are known by their sha256 and are not kept themselves.
    """

    def __init__(self, limit_bytes: int, make: Callable[[bytes | None, str], Conversion] = _conversion) -> None:
        self.kept_bytes = 0
        self._limit_bytes, self._make = limit_bytes, make
        self._kept: OrderedDict[tuple[bytes, str], tuple[Conversion, int]] = OrderedDict()  # the latest come last
        self._lock = threading.Lock()

    def get(self, profile: bytes | None, mode: str) -> Conversion:
        """The conversion of images of that mode with that profile."""
        key = (hashlib.sha256(profile or b"").digest(), mode)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        conversion = self._make(profile, mode)
        size_bytes = ENTRY_BYTES if conversion is None else TABLE_BYTES + UNPACKED * len(profile or b"")
        with self._lock:
            if key not in self._kept and size_bytes <= self._limit_bytes:
                self._kept[key] = conversion, size_bytes
                self.kept_bytes += size_bytes
            while self.kept_bytes > self._limit_bytes:
                self.kept_bytes -= self._kept.popitem(last=False)[1][1]
        return conversion


_conversions = Conversions(KEPT_BYTES)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode L, RGB, CMYK, YCbCr or LAB as sRGB: as RGB, or as it is if its values are sRGB already."""
    if image.mode == "LAB":
        profile = None  # the values are colours, whatever profile stands beside them
    elif image.mode not in CHANNELS:
        image = image.convert("RGB")
    if image.mode != "LAB" and (not isinstance(profile, bytes) or not 0 < len(profile) <= MAX_PROFILE_BYTES):
        return image
    conversion = _conversions.get(profile, image.mode)
    return image if conversion is None else conversion.apply(image)
