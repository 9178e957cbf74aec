"""ONNX Runtime on an NVIDIA GPU, float32.

onnxruntime-gpu without a usable GPU still lists the CUDA provider and falls back to the CPU without a word. So the
fall-back is switched off and the provider in use is compared with the one asked for.

Images and answers have fixed places on the GPU, and runs are captured as CUDA graphs where that works (`bound`); not
those of graphs that take more than images.

Never run on a GPU so far.
"""

from pathlib import Path

import onnxruntime

from headwise_server.engines import Engine, EngineError, Precision, takes_images_alone
from headwise_server.engines.bound import BoundSession, open_captured
from headwise_server.engines.onnxruntime import OnnxRuntimeSession, Provider

PROVIDER = "CUDAExecutionProvider"


def require_provider(provider: str, extra: str) -> None:
    """Check that the installed ONNX Runtime was built with a provider.

    Raises:
        EngineError: it was not; onnxruntime and onnxruntime-gpu write the same folder, the last installed wins.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise EngineError(
            f"expected an ONNX Runtime with {provider}, found one with {', '.join(available)}. "
            f"Run: pip uninstall onnxruntime onnxruntime-gpu && pip install 'headwise[{extra}]'"
        )


def gpu_session_options() -> onnxruntime.SessionOptions:
    """Options under which a graph that cannot run on the GPU fails to load."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def providers(captured: bool) -> list[Provider]:
    """CUDA alone, asked to capture runs or not."""
    return [(PROVIDER, {"enable_cuda_graph": "1"})] if captured else [PROVIDER]


def open_unbound(path: Path, precision: Precision) -> OnnxRuntimeSession:
    """A session without places, for graphs that take more than images, whose sizes differ from call to call."""
    return OnnxRuntimeSession(path, precision, providers=[PROVIDER], options=gpu_session_options())


def _open_session(path: Path, precision: Precision, streams: int, cache: Path) -> OnnxRuntimeSession:
    if not takes_images_alone(path):
        return open_unbound(path, precision)

    def open_session(captured: bool) -> BoundSession:
        options = gpu_session_options()
        return BoundSession(path, precision, providers=providers(captured), options=options, captured=captured)

    return open_captured(path, open_session)


def engine() -> Engine:
    """ONNX Runtime on the GPU."""
    require_provider(PROVIDER, "gpu")
    onnxruntime.preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels, which no search path leads to
    return Engine("cuda", _open_session, lambda: None)
