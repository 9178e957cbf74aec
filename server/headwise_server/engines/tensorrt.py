"""TensorRT through ONNX Runtime's provider, in the types that a graph states.

A network is strongly typed: with no precision enabled in its options, the provider gives TensorRT the graph's own
types, which TensorRT 10 and 11 take. So float16 and int8 are graphs of their own in the bundle (`classify.fp16.onnx`,
`classify.tensorrt.int8.onnx`). Images and answers have fixed places on the GPU (`bound`).

Graphs are compiled on the machine that runs them, for one profile of batches, and kept in `engines/` in the bundle's
folder (`engines.contexts`). Those that take more than images, of which there is no such profile, run with CUDA.

Never run on a GPU so far: TensorRT's libraries were not at hand where this was written.
"""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
from headwise.bundle import read_manifest

from headwise_server.engines import Engine, Precision, Session, takes_images_alone
from headwise_server.engines.bound import LARGEST, BoundSession
from headwise_server.engines.contexts import key, open_kept, target
from headwise_server.engines.cuda import PROVIDER as CUDA_PROVIDER
from headwise_server.engines.cuda import gpu_session_options, open_unbound, require_provider
from headwise_server.engines.onnxruntime import Provider

PROVIDER = "TensorrtExecutionProvider"


def profile(image_shape: tuple[int, int, int]) -> dict[str, str]:
    """Options of the provider: one profile for batches of 1 to `LARGEST`; nothing that would enable a precision."""
    height, width, channels = image_shape
    profiles = {"min": 1, "opt": LARGEST // 4, "max": LARGEST}
    return {
        f"trt_profile_{name}_shapes": f"images:{batch}x{height}x{width}x{channels}" for name, batch in profiles.items()
    }


def _image_shape(graph: Path) -> tuple[int, int, int]:
    expected = read_manifest(graph.parent).input
    return expected.height, expected.width, expected.channels


def _open_session(path: Path, precision: Precision, streams: int, cache: Path) -> Session:
    if not takes_images_alone(path):
        return open_unbound(path, precision)
    shapes = profile(_image_shape(path))

    def open_graph(graph: Path, entries: Mapping[str, str]) -> Session:
        options = gpu_session_options()
        for name, value in entries.items():
            options.add_session_config_entry(name, value)
        # TensorRT takes layer norms with one output; those that give Explain their scale as well run with CUDA.
        providers: list[Provider] = [(PROVIDER, shapes), CUDA_PROVIDER]
        return BoundSession(graph, precision, providers=providers, options=options)

    fit_for = target()
    kept = cache / f"{key(fit_for, (cache.name, path.name), precision, shapes)}.onnx" if fit_for else None
    return open_kept(path, kept, open_graph)


def engine() -> Engine:
    """TensorRT on the GPU."""
    require_provider(PROVIDER, "gpu,tensorrt")
    onnxruntime.preload_dlls()
    return Engine("tensorrt", _open_session, lambda: None)
