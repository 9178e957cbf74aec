"""TensorRT through ONNX Runtime's provider, in the types that a graph states.

A network is strongly typed: with no precision enabled in its options, the provider gives TensorRT the graph's own
types, which TensorRT 10 and 11 take. So float16 is a graph of its own in the bundle (`classify.fp16.onnx`).

Graphs are compiled on the machine that runs them, for one profile of batches, and kept in `engines/` in the bundle's
folder (`engines.contexts`).

Never run on a GPU so far: TensorRT's libraries were not at hand where this was written.
"""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
from headwise.bundle import read_manifest

from headwise_server.engines import Engine, Precision
from headwise_server.engines.contexts import key, open_kept, target
from headwise_server.engines.cuda import PROVIDER as CUDA_PROVIDER
from headwise_server.engines.cuda import gpu_session_options, require_provider
from headwise_server.engines.onnxruntime import OnnxRuntimeSession, Provider

PROVIDER = "TensorrtExecutionProvider"
MAX_BATCH = 64


def profile(image_shape: tuple[int, int, int]) -> dict[str, str]:
    """Options of the provider: one profile for batches of 1 to `MAX_BATCH`; nothing that would enable a precision."""
    height, width, channels = image_shape
    profiles = {"min": 1, "opt": MAX_BATCH // 4, "max": MAX_BATCH}
    return {
        f"trt_profile_{name}_shapes": f"images:{batch}x{height}x{width}x{channels}" for name, batch in profiles.items()
    }


def _image_shape(graph: Path) -> tuple[int, int, int]:
    expected = read_manifest(graph.parent).input
    return expected.height, expected.width, expected.channels


def _open_session(path: Path, precision: Precision, streams: int, cache: Path) -> OnnxRuntimeSession:
    shapes = profile(_image_shape(path))

    def open_graph(graph: Path, entries: Mapping[str, str]) -> OnnxRuntimeSession:
        options = gpu_session_options()
        for name, value in entries.items():
            options.add_session_config_entry(name, value)
        # TensorRT takes layer norms with one output; those that give Explain their scale as well run with CUDA.
        providers: list[Provider] = [(PROVIDER, shapes), CUDA_PROVIDER]
        return OnnxRuntimeSession(graph, precision, providers=providers, options=options)

    fit_for = target()
    kept = cache / f"{key(fit_for, (cache.name, path.name), precision, shapes)}.onnx" if fit_for else None
    return open_kept(path, kept, open_graph)


def engine() -> Engine:
    """TensorRT on the GPU."""
    require_provider(PROVIDER, "gpu,tensorrt")
    onnxruntime.preload_dlls()
    return Engine("tensorrt", _open_session, lambda: None)
