"""The fastest matrix products that runtimes reach on this machine, by type: what a model's speed can be compared with.

A chain of products of square matrices, as a graph, through the same sessions as the models. In int8 the products stand
between QuantizeLinear and DequantizeLinear, activations unsigned, weights signed, which both CPU runtimes turn into
integer products. The peak is the fastest run: what the machine can do, not what it does on average.

Limit: a lower bound of what the hardware could do. A share above 1 is possible, and says that the product was slower.
"""

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headwise_exporter.bench.sessions import Precision, SessionError, check_types, open_session

SIDE, PRODUCTS = 512, 4  # short enough that on a busy machine some runs are not interrupted
SECONDS, FEWEST_RUNS = 0.5, 8
OPSET, IR_VERSION = 18, 10
SCALE = 0.02  # of weights and activations: of no consequence


def _weights() -> NDArray[np.float32]:
    random = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
    return random * np.float32(SIDE**-0.5)


def _float_chain() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    names = ["matrix", *(f"product_{number}" for number in range(PRODUCTS - 1)), "result"]
    nodes = [helper.make_node("MatMul", [before, "weights"], [after]) for before, after in pairwise(names)]
    return nodes, [numpy_helper.from_array(_weights(), "weights")]


def _integer_chain() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    constants = {
        "weights": np.clip(_weights() / SCALE, -127, 127).round().astype(np.int8),
        "scale": np.float32(SCALE),
        "unsigned_zero": np.uint8(0),
        "signed_zero": np.int8(0),
    }
    nodes = [helper.make_node("DequantizeLinear", ["weights", "scale", "signed_zero"], ["float_weights"])]
    before = "matrix"
    for number in range(PRODUCTS):
        integer, back, after = f"integer_{number}", f"back_{number}", f"product_{number}"
        nodes += [
            helper.make_node("QuantizeLinear", [before, "scale", "unsigned_zero"], [integer]),
            helper.make_node("DequantizeLinear", [integer, "scale", "unsigned_zero"], [back]),
            helper.make_node("MatMul", [back, "float_weights"], [after]),
        ]
        before = after
    nodes += [
        helper.make_node("QuantizeLinear", [before, "scale", "unsigned_zero"], ["integer"]),
        helper.make_node("DequantizeLinear", ["integer", "scale", "unsigned_zero"], ["result"]),
    ]
    return nodes, [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]


def product_graph(precision: Precision) -> onnx.ModelProto:
    """`PRODUCTS` products in a chain, each of two matrices of `SIDE` x `SIDE`; float32 for all but int8."""
    nodes, constants = _integer_chain() if precision == "int8" else _float_chain()
    matrix, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in ("matrix", "result")
    )
    graph = helper.make_graph(nodes, "peak", [matrix], [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def operations_per_second(engine: str, precision: Precision, threads: int) -> float:
    """The fastest run of half a second; a multiply-accumulate counts as two operations.

    Raises:
        SessionError: the engine is not here, or does not run the products in this type.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "products.onnx"
        onnx.save_model(product_graph(precision), path)
        opened = open_session(path, engine, precision, threads)
        check_types(path, engine, precision, opened)
        matrix: NDArray[Any] = np.abs(_weights())
        times: list[float] = []
        while sum(times) < SECONDS or len(times) < FEWEST_RUNS:
            started = time.perf_counter()
            opened.run(matrix)
            times.append(time.perf_counter() - started)
    return 2 * PRODUCTS * SIDE**3 / min(times)


def fastest(engines: Sequence[str], precision: Precision, threads: int) -> tuple[str, float] | None:
    """The engine that reaches most in a type, and how much; None where none runs products in it."""
    reached: dict[str, float] = {}
    for engine in engines:
        try:
            reached[engine] = operations_per_second(engine, precision, threads)
        except SessionError:  # OpenVINO without the instructions, say; others may have them
            continue
    return max(reached.items(), key=lambda item: item[1], default=None)
