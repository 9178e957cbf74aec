"""What machine this is, for records of what was measured on it."""

import datetime
import platform
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from headwise.cores import usable_cores

PROCESSORS = Path("/proc/cpuinfo")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")


def _processor() -> str:
    lines = PROCESSORS.read_text("utf-8").splitlines() if PROCESSORS.is_file() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def machine() -> dict[str, Any]:
    """Processor, cores, date, and the version of each runtime that is installed."""
    installed = {distribution.name: distribution.version for distribution in distributions()}
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: installed[name] for name in RUNTIMES if name in installed},
    }
