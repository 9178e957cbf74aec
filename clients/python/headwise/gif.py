"""How much a GIF file says before its first image: Pillow reads comments block by block, and keeps them."""

from typing import BinaryIO

from headwise.formats import UnreadableImage

MAX_BLOCKS = 2**16  # of 255 bytes hold 16 MB
BLOCK_BYTES = 100  # that Pillow takes for each in Python, beside its content
SCREEN_BYTES, PALETTE_FLAG, EXTENSION = 13, 0x80, b"!"


def before_image(file: BinaryIO) -> tuple[int, int]:
    """Blocks of the extensions before the first image, and their bytes.

    Raises:
        UnreadableImage: there are more than any program writes.
    """
    screen = file.read(SCREEN_BYTES).ljust(SCREEN_BYTES, b"\0")
    if screen[10] & PALETTE_FLAG:
        file.seek(3 << ((screen[10] & 7) + 1), 1)
    blocks = block_bytes = 0
    while (kind := file.read(1)) not in (b"", b",", b";"):
        if kind == EXTENSION:
            file.read(1)
            while (length := file.read(1)) not in (b"", b"\0"):
                file.seek(length[0], 1)
                blocks, block_bytes = blocks + 1, block_bytes + length[0]
                if blocks > MAX_BLOCKS:
                    break
        blocks += 1
        if blocks > MAX_BLOCKS:
            raise UnreadableImage(f"a GIF image with more than {MAX_BLOCKS:,} blocks before it; save it again")
    return blocks, block_bytes
