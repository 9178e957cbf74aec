"""Does the memory of a process grow? From samples taken while it works.

Growth is the median of the last tenth of the samples over that of the second tenth: in the first a server still fills
its caches.
"""

from pathlib import Path

import numpy as np


def resident_mib(pid: int) -> float:
    """What a process takes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines() if "VmRSS" in line)
    return int(line.split()[1]) / 1024


def growth(samples_mib: list[float]) -> dict[str, float]:
    """Medians of the second and of the last tenth, the largest, and the growth between the tenths, in MiB.

    Raises:
        ValueError: there are fewer than 20 samples.
    """
    if (tenth := len(samples_mib) // 10) < 2:
        raise ValueError(f"expected 20 samples or more, found {len(samples_mib)}: run for longer")
    early, late = (float(np.median(part)) for part in (samples_mib[tenth : 2 * tenth], samples_mib[-tenth:]))
    return {"second_tenth": early, "last_tenth": late, "largest": max(samples_mib), "growth": late - early}
