"""What kind of file this is, by its content.

A format announces itself by a signature, the first bytes of a file. Camera raw files are TIFF files by their signature;
their first directory tells them apart: it says that its image is a preview (bit 0 of NewSubfileType; NEF, ARW), holds a
DNGVersion, or describes the pixels of a sensor (PhotometricInterpretation 32803 or 34892). A TIFF file of several pages
or of a pyramid starts with its full image and is a TIFF file.

Needs no image library. Sources: TIFF 6.0, DNG 1.7, ISO/IEC 14496-12 (`ftyp`), and each format's own specification.
"""

import io
import re
import struct
from typing import BinaryIO

from headwise.tiff import directory

HEAD_BYTES = 1024
RAW = "camera raw"

NEW_SUBFILE_TYPE, PHOTOMETRIC, DNG_VERSION = 254, 262, 50706
SENSOR_PHOTOMETRICS = (32803, 34892)  # colour filter array, linear raw

SIGNATURES = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WebP", rb"RIFF.{4}WEBP"),
    ("BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    ("JPEG 2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
    ("Netpbm", rb"P[1-6]\s+(#[^\n\r]*[\n\r]\s*)*\d"),
    ("PAM", rb"P7\n"),
    ("PFM", rb"P[Ff]\s+\d"),
    (RAW, rb"II\*\0.{4}CR\x02|II(RO|RS|U\0)|MMOR|FUJIFILMCCD-RAW|FOVb|\0MRM"),  # CR2, ORF, RW2, RAF, X3F, MRW
    ("TIFF", rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    ("JPEG XR", rb"II\xbc\x01"),
    ("PSD", rb"8BPS"),
    ("QOI", rb"qoif"),
    ("DDS", rb"DDS \x7c\0\0\0"),
    ("ICO", rb"\0\0[\x01\x02]\0[^\0]\0"),
    ("PDF", rb"%PDF-"),
    ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("XCF", rb"gimp xcf"),
    ("OpenEXR", rb"v/1\x01"),
    ("Radiance HDR", rb"#\?RADIANCE|#\?RGBE"),
    ("DICOM", rb".{128}DICM"),
    ("SVG", rb"(\xef\xbb\xbf)?\s*(?=<(\?xml|!--|!DOCTYPE svg|svg)).*<svg[\s>]"),
    ("video", rb"RIFF.{4}AVI |\x1a\x45\xdf\xa3|\0\0\x01\xba"),
)
PATTERNS = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in SIGNATURES)
BRANDS = (  # of the boxes `ftyp`; the first row that has one of a file's brands counts
    ("AVIF", {b"avif", b"avis"}),
    ("HEIC", {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    (RAW, {b"crx "}),
)
CONTAINER_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf"}  # of still images; the brands that follow say which


class UnreadableImage(Exception):
    """Why a file is no image that can be used, as a fragment: "a damaged or truncated PNG: ..."."""


def _kind_of_box(head: bytes) -> str:
    """The kind of a file that starts with a box `ftyp`: its major brand counts, of a container the ones that follow."""
    length = min(struct.unpack(">I", head[:4])[0], len(head))
    major, others = head[8:12], {head[start : start + 4] for start in range(16, length, 4)}
    brands = others if major in CONTAINER_BRANDS else {major}
    return next((kind for kind, known in BRANDS if brands & known), "HEIC" if major in CONTAINER_BRANDS else "video")


def _is_raw(file: BinaryIO, start: int, head: bytes) -> bool:
    """Whether the first directory of a TIFF file describes a preview, the pixels of a sensor or a digital negative."""
    return struct.unpack("<H" if head.startswith(b"II") else ">H", head[2:4])[
        0
    ] == 42 and any(  # no camera writes BigTIFF
        entry.tag == DNG_VERSION
        or (entry.tag == NEW_SUBFILE_TYPE and entry.number & 1)
        or (entry.tag == PHOTOMETRIC and entry.number in SENSOR_PHOTOMETRICS)
        for entry in directory(file, start)
    )


def kind_of(source: BinaryIO | bytes) -> str | None:
    """The name of the format that a file's content announces, whether it is read here or not; None for anything else.

    Reads a few kilobytes at most, from where the file stands, and puts it back there.
    """
    file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source
    start = file.tell()
    try:
        head = file.read(HEAD_BYTES)
        if head[4:8] == b"ftyp" and len(head) >= 12:
            return _kind_of_box(head)
        kind = next((kind for kind, pattern in PATTERNS if pattern.match(head)), None)
        return RAW if kind == "TIFF" and len(head) >= 8 and _is_raw(file, start, head) else kind
    finally:
        file.seek(start)
