"""The names of what pruning can be asked for, in a module that imports no torch: the command's help lists them.

What they mean is said where they are computed: layers in `pruning.masks`, choices of connections in
`pruning.connections`, criteria in `pruning.criteria`, `AUTO` and `NONE` in `pruning.prune`.
"""

from typing import Final, Literal, get_args

REACHED = 0.98  # of a measured speed-up, at which it counts as reached
AUTO: Final = "auto"  # what is best on the validation images
NONE: Final = "none"  # in place of what chooses connections: no masks

Layers = Literal["feed_forward", "classifier_head", "both"]  # a `LayerGroup`, or both
LAYERS: tuple[Layers, ...] = get_args(Layers)

ANDC, PERMUTED = "andc", "permuted"
DENSE = "dense"  # everything is kept
SCORES = ("random", "magnitude", "wanda", "overlap", "magnitude*overlap", "wanda*overlap")
CHANCE = ("random", PERMUTED)  # the seed draws their masks
MASK_BY = (ANDC, PERMUTED, *SCORES)
GRADUAL = "gradual "  # prefix
COMPARED = (*MASK_BY, *(GRADUAL + choice for choice in (ANDC, "wanda", "wanda*overlap")))

BASIC = ("magnitude", "variance", "taylor")
CRITERIA = (*BASIC, "snp", *(f"{name}*snp" for name in BASIC), "taylor*distinct")
