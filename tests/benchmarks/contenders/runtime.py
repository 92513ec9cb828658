"""onnxruntime: the graph that an exporter would write; the best path of tags in NumPy, as people do beside it."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import contenders as given
from contenders import by_hand


class Graph:
    """Nodes and weights, put one after the other."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """The name of the node's output; arrays among its inputs are weights."""
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                self.weights.append(numpy_helper.from_array(value, f"w{len(self.weights)}"))
                value = self.weights[-1].name
            names.append(value)
        self.nodes.append(helper.make_node(op, names, [f"y{len(self.nodes)}"], **attributes))
        return f"y{len(self.nodes) - 1}"

    def gru(self, x: str, width: int, weights: dict[str, Any], layer: int) -> str:
        """(T, B, D) -> (T, B, 2 H): both ways."""
        def both(name: str) -> Any:
            return np.stack([self.gates(weights[f"{name}_l{layer}{way}"]) for way in ("", "_reverse")])

        bias = np.concatenate([both("bias_ih"), both("bias_hh")], 1)
        y = self.add("GRU", x, both("weight_ih"), both("weight_hh"), bias, direction="bidirectional", hidden_size=width,
                     linear_before_reset=1)
        y = self.add("Transpose", y, perm=[0, 2, 1, 3])         # from (T, 2, B, H)
        return self.add("Reshape", y, np.array([0, 0, -1]))

    @staticmethod
    def gates(weight: Any) -> Any:
        """PyTorch's r z n as ONNX's z r n."""
        r, z, n = np.split(weight, 3)
        return np.concatenate([z, r, n])

    def session(self, kind: int, shape: list[int], y: str) -> Any:
        x = helper.make_tensor_value_info("x", kind, shape)
        graph = helper.make_graph(self.nodes, "model", [x], [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
                                  self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def one_row_both_ways(steps: int, width: int) -> Callable[[], Any]:
    graph, x = Graph(), given.numbers("x", 1, steps, width)
    weights, y = given.recurrent_weights("GRU", width, width, 2, both=True), graph.add("Transpose", "x", perm=[1, 0, 2])
    for layer in range(2):
        y = graph.gru(y, width, weights, layer)
    y = graph.add("Transpose", y, perm=[1, 0, 2])
    session = graph.session(TensorProto.FLOAT, [1, steps, width], y)
    return lambda: session.run(None, {"x": x})


def tagger(steps: int, width: int, tags: int) -> Callable[[], Any]:
    graph, ids = Graph(), given.integers("ids", given.WORDS, 1, steps)
    out = given.weights({"weight": (tags, 2 * width), "bias": (tags,)}, "out.")
    y = graph.add("Gather", given.weight("embedding.weight", (given.WORDS, width)), "x")
    y = graph.add("Transpose", y, perm=[1, 0, 2])
    y = graph.gru(y, width, given.recurrent_weights("GRU", width, width, both=True), 0)
    y = graph.add("Add", graph.add("MatMul", y, np.ascontiguousarray(out["weight"].T)), out["bias"])
    session, weights = graph.session(TensorProto.INT64, [1, steps], y), by_hand.crf(tags)
    return lambda: [by_hand.viterbi(session.run(None, {"x": ids})[0][:, 0], *weights)]
