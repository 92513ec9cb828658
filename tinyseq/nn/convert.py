"""Weights of recurrent layers from other libraries, as a `state_dict`: `gru.load_state_dict(from_keras(gru, ...))`.

From Keras and ONNX a call converts one layer, in one direction or both, into the keys of the layer number `index` of a
tinyseq RNN, GRU or LSTM; for a stack they are joined, `from_keras(lstm, w0, c0) | from_keras(lstm, w1, c1, index=1)`.
What the layer cannot compute is a ValueError with both equations; every setting is read, changes no number, or is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinyseq import check
from tinyseq.nn.gates import EQUATIONS, State, as_array, from_gates, from_torch, mapping, name_of, same, state_of
from tinyseq.nn.recurrent import GRU, LSTM, RNN

__all__ = ["from_gates", "from_keras", "from_keras_layers", "from_onnx", "from_onnx_nodes", "from_torch"]

# Of what a Keras layer's or cell's get_config() holds: that which changes no number, and that which must be False.
KERAS_PLAIN = {
    "name", "trainable", "dtype", "return_sequences", "return_state", "unroll", "zero_output_for_mask", "units",
    "kernel_initializer", "recurrent_initializer", "bias_initializer", "unit_forget_bias", "kernel_regularizer",
    "recurrent_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "recurrent_constraint",
    "bias_constraint", "dropout", "recurrent_dropout", "seed", "implementation", "batch_input_shape", "batch_shape"}
KERAS_FALSE = {
    "go_backwards": "y from the last step to the first", "time_major": "x (time, batch, features)",
    "stateful": "an h that goes on from call to call: hand it on yourself, and let config say stateful=False"}


def from_keras(layer: Any, weights: Sequence[Any], config: Mapping[str, Any], index: int = 0) -> State:
    """`get_weights()` and `get_config()` of a Keras SimpleRNN, GRU or LSTM, of an RNN around one of their cells, or of
    a Bidirectional around any of these, with a backward_layer of its own or without.

    For each direction a kernel (I, G H), a recurrent_kernel (H, G H), and, with `use_bias`, a bias (G H,), or (2, G H)
    for a GRU with `reset_after`; the gates in the order z, r, h or i, f, c, o. What `config` lacks is as by default.
    The layer here returns all outputs and the final state, whichever of them `return_sequences` and `return_state` ask
    for; it drops nothing, computes in its own dtype, and its outputs in padding are 0. go_backwards, stateful,
    time_major and a merge_mode that is not "concat" are refused, as are keys that Keras does not write.

    >>> kernel, recurrent_kernel, bias = np.zeros((3, 16)), np.zeros((4, 16)), np.zeros(16)
    >>> kernel[:, 4:8] = 1.0                                  # the forget gate, the second here as there
    >>> lstm = nn.LSTM(3, 4)
    >>> state = nn.convert.from_keras(lstm, [kernel, recurrent_kernel, bias], config={})    # keras_lstm.get_config()
    >>> lstm.load_state_dict(state)
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    >>> ts.all(lstm.weight_ih_l0[4:8] == 1), bool(ts.sum(lstm.weight_ih_l0) == 12)
    (tensor(True), True)
    """
    name = name_of("from_keras", layer)
    mapping("from_keras", "config", config)
    index = check.integers("from_keras", 0, layer.num_layers - 1, index=index)
    cells = [_keras_cell(layer, name, side, side is config.get("backward_layer")) for side in _sides(layer, config)]
    count = sum(2 + cell["use_bias"] for cell in cells)
    if not isinstance(weights, Sequence) or len(weights) != count:
        raise ValueError(f"from_keras: expected weights as get_weights() returns them, {count} arrays: a kernel, "
                         "recurrent_kernel, and with use_bias a bias, for each direction; got "
                         f"{len(weights) if isinstance(weights, Sequence) else type(weights).__name__}")
    given, parts, two = iter(weights), [], (2,) if layer.kind == "gru" else ()
    for cell in cells:
        kernel, recurrent = (as_array("from_keras", key, next(given), 2) for key in ("kernel", "recurrent_kernel"))
        b = as_array("from_keras", "bias", next(given)) if cell["use_bias"] else np.zeros((*two, kernel.shape[1]))
        if b.shape[:-1] != two:
            raise ValueError(f"from_keras: bias of shape {b.shape}: (2, 3 H) is that of a GRU with reset_after=True")
        parts.append((kernel.T, recurrent.T, *(b if two else (b, 0 * b))))
    return state_of("from_keras", layer, index, parts, (1, 0, 2) if name == "GRU" else None)


def from_keras_layers(path: Any, config: Any = None) -> dict[str, Any]:
    """The recurrent layers of a file of Keras 2 or 3, ready: the user's name -> nn.RNN, GRU or LSTM.

    From `.keras` and from `.h5` of `model.save`, with no more. `.weights.h5` and `.h5` of `save_weights` have no
    settings in them: `config` is `model.to_json()` of the same model, or that as a dictionary. A layer in a model in it
    is "inner/lstm". Layers with settings that are not computed here are refused as in `from_keras`, by their name. It
    needs h5py (`pip install 'tinyseq[h5]'`), and raises CheckpointError for what is no such file.

    >>> layers = nn.convert.from_keras_layers("model.keras")  # model.save("model.keras")
    >>> layers["inner/deep"]
    GRU(3, 4, reset='before')
    """
    from tinyseq import archives, checkpoint, keras_files

    where = "convert.from_keras_layers"
    with checkpoint._blame(f"{where}: path {path}"), archives.File(Path(path)) as file:
        found = list(keras_files.recurrent(keras_files.read(file, archives.Room()), config))
    if not found:
        raise ValueError(f"{where}: {path} has none of the layers {', '.join(keras_files.LAYERS)}")
    layers = {}
    for name, entry, weights in found:
        try:
            layers[name] = _keras_layer(entry, weights)
        except (ValueError, TypeError, LookupError, AttributeError) as error:   # of settings that Keras does not write
            raise ValueError(f"{where}: layer {name!r}: {error}") from error
    return layers


def _keras_layer(entry: Mapping[str, Any], weights: Sequence[Any]) -> Any:
    """A layer of these settings, {"class_name", "config"}, with its weights."""
    two = entry["class_name"] == "Bidirectional"
    settings = entry["config"] if two else {"layer": entry}
    sides = [settings["layer"], *([settings["backward_layer"]] if settings.get("backward_layer") else [])]
    kinds = {side["config"].get("cell", side).get("class_name").removesuffix("Cell") for side in sides}
    cells = [side["config"].get("cell", side)["config"] for side in sides]
    makers: dict[str, Any] = {"SimpleRNN": RNN, "GRU": GRU, "LSTM": LSTM}
    if len(kinds) != 1 or not kinds <= makers.keys():
        raise ValueError(f"layers here are one of {', '.join(makers)}, got {' and '.join(sorted(kinds))}")
    [kind] = kinds
    options = {"SimpleRNN": {"nonlinearity": "relu" if cells[0].get("activation") == "relu" else "tanh"},
               "GRU": {"reset": "after" if cells[0].get("reset_after", True) else "before"}, "LSTM": {}}[kind]
    (inputs, _), (hidden, _), dtype = weights[0].shape, weights[1].shape, weights[0].dtype
    layer = makers[kind](inputs, hidden, bias=any(cell.get("use_bias", True) for cell in cells), bidirectional=two,
                         dtype=dtype, **options)
    layer.load_state_dict(from_keras(layer, weights, entry["config"]))
    return layer


def _sides(layer: Any, config: Mapping[str, Any]) -> list[Any]:
    """What a configuration says of each direction."""
    if "layer" not in config:
        return [{"config": config}]
    if more := config.keys() - {"name", "trainable", "dtype", "merge_mode", "layer", "backward_layer"}:
        raise ValueError(f"from_keras: a Bidirectional with the settings {sorted(more)} is not known here")
    if (mode := config.get("merge_mode", "concat")) != "concat":
        same(layer, f"merge_mode={mode!r} of both directions' y, which are side by side with 'concat'")
    return [config["layer"], config.get("backward_layer") or config["layer"]]


def _keras_cell(layer: Any, name: str, side: Any, backward: bool) -> dict[str, Any]:
    """The settings of a Keras layer of one direction, {"class_name", "config"}, if ours computes the same."""
    kind = {"RNN": "SimpleRNN"}.get(name, name)
    settings = dict(mapping("from_keras", "config", mapping("from_keras", "layer", side).get("config")))
    classes = [(side.get("class_name", kind), kind)]
    if cell := settings.pop("cell", None):  # an RNN around it
        settings |= mapping("from_keras", "config", mapping("from_keras", "cell", cell).get("config"))
        classes = [(side.get("class_name", "RNN"), "RNN"), (cell.get("class_name"), f"{kind}Cell")]
    for found, expected in classes:
        if found != expected:
            same(layer, f"the equations of a {found}, not of a {expected}")
    read = {"RNN": [], "GRU": ["recurrent_activation", "reset_after"], "LSTM": ["recurrent_activation"]}[name]
    if more := settings.keys() - KERAS_PLAIN - KERAS_FALSE.keys() - {"activation", "use_bias", *read}:
        raise ValueError(f"from_keras: expected what get_config() of a {kind} returns, as is; {sorted(more)} are not "
                         "known here")
    for key, meaning in KERAS_FALSE.items():
        usual = backward and key == "go_backwards"
        if settings.get(key, usual) != usual:
            same(layer, f"{key}={settings[key]!r}, {meaning}")
    check.choice("from_keras", (True, False), use_bias=settings.setdefault("use_bias", True),
                 reset_after=settings.setdefault("reset_after", True))
    f, g = settings.get("activation", "tanh"), settings.get("recurrent_activation", "sigmoid")
    same(layer, _equation(name, f, name == "RNN" or (f, g) == ("tanh", "sigmoid"), settings["reset_after"])
          or f"activation={f!r}, recurrent_activation={g!r}")
    return settings


def _equation(name: str, f: Any, usual: bool, after: Any) -> str | None:
    """That of an RNN of activation f, or of a GRU or LSTM of the `usual` ones; None if no layer here computes it."""
    kind = {"RNN": f"rnn_{f}", "GRU": "gru" if after else "gru_before", "LSTM": "lstm"}[name]
    return EQUATIONS.get(kind) if usual else None


def from_onnx(layer: Any, W: Any, R: Any, B: Any = None, *more: Any, P: Any = None, index: int = 0,
              **attributes: Any) -> State:
    """The tensors and attributes of an ONNX RNN, GRU or LSTM node.

    W (D, G H, I), R (D, G H, H), and B (D, 2 G H) or None, for D directions; the gates in the order z, r, h or i, o, f,
    c. P, peepholes (D, 3 H), must be None or 0; nothing `more` is taken by place, where a node has sequence_lens,
    initial_h and initial_c: these are arguments of the layer's call. Attributes that are left out have ONNX's defaults:
    `linear_before_reset` is 0. Names of activations are read in upper and lower case; `layout`, activation_alpha and
    activation_beta change nothing that is computed here.

    Where a row has length 0, onnxruntime gives 0 as its final state, and the layer here its initial state. A GRU with
    linear_before_reset=0 that PyTorch exported with onnxscript 0.6.0 to 0.7.0 has wrong numbers in its file, which are
    read as they are: export it again with 0.7.1.

    >>> W, R, B = np.zeros((1, 12, 3)), np.zeros((1, 12, 4)), np.zeros((1, 24))
    >>> gru = nn.GRU(3, 4, reset="before")                    # linear_before_reset = 0; of 1 it is reset="after"
    >>> gru.load_state_dict(nn.convert.from_onnx(gru, W, R, B))
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    >>> nn.convert.from_onnx(nn.GRU(3, 4), W, R, B)
    Traceback (most recent call last):
    ValueError: these weights are for n = tanh(W x + b + U (r * h) + d), which is reset='before'; the ...
    """
    name = name_of("from_onnx", layer)
    if more:
        raise TypeError(f"from_onnx: expected at most W, R and B by place, got {3 + len(more)}: a node has "
                        "sequence_lens, initial_h and initial_c next, which the layer is called with, then P, here P=")
    index = check.integers("from_onnx", 0, layer.num_layers - 1, index=index)
    W, R = as_array("from_onnx", "W", W, 3), as_array("from_onnx", "R", R, 3)
    B = np.zeros((len(W), 2 * W.shape[1])) if B is None else as_array("from_onnx", "B", B, 2)
    if len(R) != len(W) or B.shape != (len(W), 2 * W.shape[1]):
        raise ValueError(f"from_onnx: expected W (D, G H, I), R (D, G H, H) and B (D, 2 G H), got {W.shape}, {R.shape} "
                         f"and {B.shape}")
    attributes = {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}
    needed = {"clip": None, "direction": "bidirectional" if len(W) == 2 else "forward",
              "hidden_size": layer.hidden_size, "input_forget": 0}
    own = {"RNN": [], "GRU": ["linear_before_reset"], "LSTM": ["input_forget"]}[name]
    known = {"clip", "direction", "hidden_size", "activations", "activation_alpha", "activation_beta", "layout", *own}
    if not attributes.keys() <= known:
        raise ValueError(f"from_onnx: expected attributes of {sorted(known)}, got {sorted(attributes)}")
    after, layout = (attributes.get(key, 0) for key in ("linear_before_reset", "layout"))
    check.integers("from_onnx", 0, 1, linear_before_reset=after, layout=layout)
    usual = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}[name] * len(W)
    given = attributes.get("activations") or usual
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"from_onnx: expected activations as a list of names, got {given!r}")
    given = [f.decode() if isinstance(f, bytes) else str(f) for f in given]
    lower = [f.lower() for f in given]
    plain = lower == (lower[:1] * len(W) if name == "RNN" else usual)
    same(layer, _equation(name, lower[0], plain, after) or f"activations={given}")
    if P is not None and np.any(as_array("from_onnx", "P", P)):
        same(layer, "i = sigmoid(W x + b + U h + d + P * c), and so on, with peepholes P")
    for option, value in needed.items():
        if attributes.get(option, value) != value:
            same(layer, f"{option}={attributes[option]!r} in place of {value!r}")
    parts = [(w, r, *np.split(b, 2)) for w, r, b in zip(W, R, B, strict=True)]
    return state_of("from_onnx", layer, index, parts, {"RNN": None, "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}[name])


def from_onnx_nodes(path: Any) -> dict[str, Any]:
    """The recurrent layers of an ONNX file, ready: name of its node (or of its first output) -> nn.RNN, GRU or LSTM.

    Nodes of one kind, settings and lengths, each of which reads all steps of the one before (Y, not Y_h) with time and
    rows where they were, are one layer, a stack, under the name of the first; others are layers of their own. A GRU
    whose linear_before_reset is 0 has `reset="before"`. Here x is (B, T, I), the batch first; what the graph gives to
    sequence_lens and to the initial states is an argument of the call. A row of length 0 ends in its initial state
    here, and in 0 in onnxruntime.

    What a layer here cannot compute is a ValueError with the node's name, as are weights that other nodes compute, and
    initial states that are stored and not 0.

    >>> gru = nn.GRU(3, 4, bidirectional=True).eval()
    >>> ts.export.onnx(gru, "gru.onnx", np.zeros((1, 2, 3), np.float32))        # or another library
    >>> nn.convert.from_onnx_nodes("gru.onnx")
    {'GRU': GRU(3, 4, bidirectional=True)}
    """
    from tinyseq import archives, checkpoint, onnx_files

    where = "convert.from_onnx_nodes"
    with checkpoint._blame(f"{where}: path {path}"), archives.File(Path(path)) as file:
        graph = onnx_files.read(file, archives.Room())
    arrays = graph.arrays | {n.outputs[0]: n.attributes["value"] for n in graph.nodes
                             if n.kind == "Constant" and isinstance(n.attributes.get("value"), np.ndarray)}
    stacks: list[list[Any]] = []
    for node in [node for node in graph.nodes if node.kind in ("RNN", "GRU", "LSTM")]:
        below = [s for s in stacks if _stackable(s[-1], node, arrays) and _on_top(s[-1], node, graph.nodes, arrays)]
        below[0].append(node) if below else stacks.append([node])
    if not stacks:
        raise ValueError(f"{where}: {path} has no node RNN, GRU or LSTM among {sorted({n.kind for n in graph.nodes})}: "
                         "some exporters unroll them (PyTorch's newer one nn.RNN: give it dynamo=False)")
    return {_label(stack[0]): _layer(where, stack, arrays) for stack in stacks}


def _label(node: Any) -> str:
    return str(node.name or next(filter(None, node.outputs)))


def _stackable(below: Any, node: Any, arrays: Mapping[str, Any]) -> bool:
    """Whether a node may be one more layer: of the other's kind, settings, lengths and sizes."""
    w, r = (arrays.get(n.inputs[1]) for n in (node, below))
    said, of_below = ((n.kind, n.attributes, n.inputs[4:5] or [""]) for n in (node, below))
    return said == of_below and w is not None and r is not None and w.ndim == r.ndim == 3 and (
        w.shape[:2] == r.shape[:2] and w.shape[2] == len(w) * node.attributes["hidden_size"])


def _on_top(below: Any, node: Any, nodes: Sequence[Any], arrays: Mapping[str, Any]) -> bool:
    """Whether x of a node is the other's Y, both directions side by side and each step and row where it was: entries
    that are all different are sent the way from one to the other."""
    ways, _, width = arrays[node.inputs[1]].shape
    h0 = arrays.get(below.inputs[5]) if len(below.inputs) > 5 else None
    rows = 3 if h0 is None else h0.size // max(width, 1)    # a file that was made for so many may say it in a Reshape
    expected = np.arange(2 * rows * width).reshape(2, rows, width)
    y = expected.reshape(2, rows, ways, width // max(ways, 1))
    known = {**arrays, below.outputs[0]: y if below.attributes.get("layout") else y.swapaxes(1, 2)}
    for step in nodes:
        inputs = [known.get(name) for name in step.inputs if name]
        sizes = all(a is not None and a.ndim == 1 and a.size < 9 for a in inputs)
        if step.kind in MOVES and (sizes or step.kind not in ("Concat", "Mul", "Slice")):
            # an input may not be known, and nothing holds a file to what its nodes take
            with suppress(ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
                known[step.outputs[0]] = MOVES[step.kind](step.attributes, *inputs)
    return bool(np.array_equal(known.get(node.inputs[0], 0), expected))


def _reshaped(said: Any, x: Any, shape: Any) -> Any:
    """Reshape; if the shape is a stored one, its number of steps is that of the example, and stands for any."""
    sizes = shape.tolist()
    sizes[0] = -1 if min(sizes) > 0 else sizes[0]
    return x.reshape([x.shape[n] if size == 0 else size for n, size in enumerate(sizes)])


# What may lie between two layers of a stack, of its attributes and inputs, and compute the shape of a Reshape.
MOVES: dict[str, Any] = {
    "Identity": lambda said, x: x, "Dropout": lambda said, x, *more: x, "Mul": lambda said, x, y: x * y,
    "Transpose": lambda said, x: x.transpose(said.get("perm")), "Concat": lambda said, *parts: np.concatenate(parts),
    "Squeeze": lambda said, x, *axes: x.squeeze(tuple(axes[0] if axes else said["axes"])), "Reshape": _reshaped,
    "Shape": lambda said, x: np.array(x.shape[said.get("start", 0):said.get("end")]),
    "Slice": lambda said, x, start, end, *axes: x[start[0]:end[0]]}


def _layer(where: str, stack: Sequence[Any], arrays: Mapping[str, Any]) -> Any:
    """A layer with the weights of the nodes of a stack."""
    state: State = {}
    for index, node in enumerate(stack):
        name = f"{where}: node {_label(node)!r}"
        inputs = dict(zip(("X", "W", "R", "B", "lengths", "h0", "c0", "P"), node.inputs, strict=False))
        tensors = {key: arrays.get(inputs.get(key, "")) for key in "WRBP"}
        if lost := [key for key, value in tensors.items() if value is None and inputs.get(key)]:
            raise ValueError(f"{name}: {lost} are computed by other nodes: let the exporter fold constants, or "
                             "give the tensors to convert.from_onnx")
        if any(np.any(arrays.get(inputs.get(key, ""), 0)) for key in ("h0", "c0")):
            raise ValueError(f"{name}: its initial state is stored and not 0: give the tensors to convert.from_onnx, "
                             "and the state to the layer when it is called")
        if not index:
            layer = _empty(node, tensors["W"], len(stack), bias=any(len(n.inputs) > 3 and n.inputs[3] for n in stack))
        try:
            state |= from_onnx(layer, **tensors, index=index, **node.attributes)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    layer.load_state_dict(state)
    return layer


def _empty(node: Any, w: Any, layers: int, bias: bool) -> Any:
    """A layer of a node's kind and sizes."""
    kinds: dict[str, Any] = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM}
    options: dict[str, Any] = {}
    if node.kind == "GRU":
        options["reset"] = "after" if node.attributes.get("linear_before_reset") else "before"
    if node.kind == "RNN" and node.attributes.get("activations", ["Tanh"])[0].lower() == "relu":
        options["nonlinearity"] = "relu"
    dtype = w.dtype if w.dtype.kind == "f" else np.float32
    return kinds[node.kind](w.shape[2], node.attributes["hidden_size"], layers, bias=bias,
                            bidirectional=len(w) == 2, dtype=dtype, **options)
