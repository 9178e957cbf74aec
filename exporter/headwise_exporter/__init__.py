"""Labelled images in, a small and explainable vision transformer out, as one bundle."""

import os

# ONNX Runtime reports its use to its maker unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
