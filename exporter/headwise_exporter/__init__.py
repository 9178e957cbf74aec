"""Labelled images in, a small and explainable vision transformer out, as one bundle.

One level of packages, by concept; each may import what lies below it, which import-linter holds:

    cli > commands > stages > (studies | recipes) > export > pruning > nodes > training > (bench | data | model)
        > (files | progress | distributed | machine) > errors
"""

import os
import sys

# ONNX Runtime reports its use to its maker unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# So do OpenVINO and nncf, by a package that both do without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: it cannot be imported
