"""Names of controls. Imports no torch: the command's help and tables show them."""

from typing import Final

UNTRAINED: Final = "untrained"
UNTRAINED_AGAIN: Final = "untrained_again"
EXCHANGED: Final = "exchanged"
