"""Labelled images in, a small and explainable vision transformer out, as one bundle.

One level of packages, by concept; each may import what lies below it, which import-linter holds:

    cli > commands > stages > (export | studies | recipes) > pruning > nodes > training > (data | model)
        > (files | progress | distributed | machine) > errors
"""

import os

# ONNX Runtime reports its use to its maker unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
