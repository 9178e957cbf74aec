"""Names of the runtimes that run graphs; imports none of them."""

from typing import Final

ONNXRUNTIME, OPENVINO, CUDA, TENSORRT = "onnxruntime", "openvino", "cuda", "tensorrt"
ENGINES: Final = (ONNXRUNTIME, OPENVINO, CUDA, TENSORRT)
GPU_ENGINES: Final = (CUDA, TENSORRT)
CPU_ENGINES: Final = (ONNXRUNTIME, OPENVINO)
INT8_ENGINES: Final = (*CPU_ENGINES, TENSORRT)  # that int8 graphs can be made for
