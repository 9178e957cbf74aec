"""TensorRT through ONNX Runtime's provider, float32 unless f16 passes the golden set.

Engines are built on the machine that runs them and kept in `engines/` in the bundle's folder, under a key of everything
that makes one unfit elsewhere: the bundle's sha256, precision and profile are in the names of the folders, and ONNX
Runtime's provider adds graph, TensorRT version and GPU.

Never run on a GPU so far: TensorRT's libraries were not at hand where this was written.
"""

from pathlib import Path
from typing import Any

import onnxruntime
from headwise.bundle import read_manifest

from headwise_server.engines import Engine, Precision
from headwise_server.engines.cuda import PROVIDER as CUDA_PROVIDER
from headwise_server.engines.cuda import gpu_session_options, require_provider
from headwise_server.engines.onnxruntime import OnnxRuntimeSession, Provider

PROVIDER = "TensorrtExecutionProvider"
MAX_BATCH = 64


def provider_options(cache: Path, precision: Precision, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Options of the provider: one profile for batches of 1 to `MAX_BATCH`, an engine cache for each precision."""
    height, width, channels = image_shape
    profiles = {"min": 1, "opt": MAX_BATCH // 4, "max": MAX_BATCH}
    shapes = {
        f"trt_profile_{name}_shapes": f"images:{batch}x{height}x{width}x{channels}" for name, batch in profiles.items()
    }
    return {
        "trt_fp16_enable": precision == "f16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache / f"{precision}-batch{MAX_BATCH}"),
        **shapes,
    }


def _image_shape(graph: Path) -> tuple[int, int, int]:
    expected = read_manifest(graph.parent).input
    return expected.height, expected.width, expected.channels


def _open_session(path: Path, precision: Precision, streams: int, cache: Path) -> OnnxRuntimeSession:
    options = provider_options(cache, precision, _image_shape(path))
    # TensorRT takes layer norms with one output; those that give Explain their scale as well run with CUDA.
    providers: list[Provider] = [(PROVIDER, options), CUDA_PROVIDER]
    return OnnxRuntimeSession(path, precision, providers=providers, options=gpu_session_options())


def engine() -> Engine:
    """TensorRT on the GPU."""
    require_provider(PROVIDER, "gpu,tensorrt")
    onnxruntime.preload_dlls()
    return Engine("tensorrt", _open_session, lambda: "f16")
