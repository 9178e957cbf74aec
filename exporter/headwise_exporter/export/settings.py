"""Settings of an export; apart from what carries them out, so that recipes need no runtime."""

from dataclasses import dataclass

from headwise_exporter.engines import CPU_ENGINES, INT8_ENGINES


@dataclass(frozen=True)
class QuantizationSettings:
    """How int8 graphs are made, and when they are good enough.

    Raises:
        ValueError: an engine that no int8 graph can be made for, or a number that is out of bounds.
    """

    engines: tuple[str, ...] = CPU_ENGINES  # to make an int8 graph for; none with []
    images: int = 512  # training images that the ranges of activations are read from
    max_drop_points: float = 0.5  # of validation accuracy, below the float32 graph; 100 takes what comes
    half: bool = False  # make a float16 graph as well, for GPUs

    def __post_init__(self) -> None:
        if unknown := [engine for engine in self.engines if engine not in INT8_ENGINES]:
            raise ValueError(f"expected engines to be some of {', '.join(INT8_ENGINES)}, found {', '.join(unknown)}")
        if self.images < 1:
            raise ValueError(f"expected images to be at least 1, found {self.images}")
        if not 0 <= self.max_drop_points <= 100:
            raise ValueError(f"expected max_drop_points in 0 .. 100, found {self.max_drop_points}")
