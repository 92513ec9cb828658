"""Gates of recurrent cells as other frameworks lay them out: `from_gates`, and a preset for each framework.

All libraries compute the same few equations and keep their weights each in its own way: another order of gates, rows or
columns, one array or one a gate, a 1 that is added to the forget gate only when running, an update gate that is turned
round. A `Layout` says it; `EQUATIONS` is what the layers here compute, and what cannot be said in these is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyseq import check
from tinyseq.nn.recurrent import GRU, KEYS, LSTM, RNN

Array = np.ndarray[Any, Any]
State = dict[str, Any]
EQUATIONS = {
    "rnn_tanh": "h' = tanh(W x + b + U h + d)",
    "rnn_relu": "h' = relu(W x + b + U h + d)",
    "gru": "n = tanh(W x + b + r * (U h + d)), which is reset='after'",
    "gru_before": "n = tanh(W x + b + U (r * h) + d), which is reset='before'",
    "lstm": "i, f, o = sigmoid(W x + b + U h + d), g = tanh(likewise), c' = f * c + i * g, h' = o * tanh(c')",
}
OURS = {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"}


class Layout(NamedTuple):
    """Where a framework keeps the W, U, b and d of a cell, and how its gates lie in them.

    Several names in one string are arrays one below the other, as a rule one of each gate in `order`; "-" or no name is
    zeros; where U has the names of W, they take x and h, side by side. In names {n} counts the layers and in them the
    directions, {layer} and {reverse} are PyTorch's, and {k[0]}, {k[1]}, ... number all arrays of a stack.
    """

    W: str = "{n}/W"
    U: str = "{n}/U"
    b: str = "{n}/b"
    d: str = "{n}/d"
    order: str = ""
    transposed: bool = False
    forget_bias: float = 0.0
    reset: str = "after"        # or "", where the axes of b tell
    update: str = "keeps"
    interleaved: bool = False
    nonlinearity: str = ""
    stale: str = ""             # what is in the file and does not count


TWICE = " ".join(f"{{layer}}.cell{way}.{key}" for way in ("", "_fw", "_bw") for key in KEYS)
PADDLE = [Layout(f"weight_ih{end}", f"weight_hh{end}", f"bias_ih{end}", f"bias_hh{end}", stale=TWICE)
          for end in ("_l{layer}{reverse}", "")]


def _keras(order: str, reset: str = "after") -> list[Layout]:
    """Names in Keras 3's .weights.h5 and .keras, in its .h5, and in Keras 2's."""
    names = ("0", "1", "2"), ("kernel", "recurrent_kernel", "bias"), ("kernel:0", "recurrent_kernel:0", "bias:0")
    return [Layout(*three, "", order, transposed=True, reset=reset) for three in names]


# Of each framework, by the layer here, the layouts that its cells have: names in the file tell which it is.
PRESETS: dict[str, dict[str, list[Layout]]] = {
    "chainer": {
        "RNN": [Layout("{n}/w0", "{n}/w1", "{n}/b0", "{n}/b1")],
        "GRU": [Layout("{n}/w0 {n}/w1 {n}/w2", "{n}/w3 {n}/w4 {n}/w5", "{n}/b0 {n}/b1 {n}/b2", "{n}/b3 {n}/b4 {n}/b5"),
                Layout("W_r/W W_z/W W/W", "U_r/W U_z/W U/W", "W_r/b W_z/b W/b", "U_r/b U_z/b U/b", reset="before",
                       update="replaces")],
        "LSTM": [Layout("{n}/w0 {n}/w1 {n}/w2 {n}/w3", "{n}/w4 {n}/w5 {n}/w6 {n}/w7", "{n}/b0 {n}/b1 {n}/b2 {n}/b3",
                        "{n}/b4 {n}/b5 {n}/b6 {n}/b7"),
                 Layout("upward/W", "lateral/W", "upward/b", "", "gifo", interleaved=True)]},
    "dynet": {
        "RNN": [Layout("_{k[0]}", "_{k[1]}", "_{k[2]}", "")],
        "GRU": [Layout("_{k[0]} _{k[3]} _{k[6]}", "_{k[1]} _{k[4]} _{k[7]}", "_{k[2]} _{k[5]} _{k[8]}", "", "zrn",
                       reset="before", update="replaces")],
        "LSTM": [Layout("_{k[0]}", "_{k[1]}", "_{k[2]}", "", "ifog", forget_bias=1.0)]},
    "fastai": {"LSTM": [Layout("module.weight_ih_l0", "weight_hh_l0_raw", "module.bias_ih_l0", "module.bias_hh_l0",
                               stale="module.weight_hh_l0")]},
    "flax": {
        "RNN": [Layout("i/kernel", "h/kernel", "i/bias", "", transposed=True),
                Layout("dense_i/kernel", "dense_h/kernel", "dense_i/bias", "", transposed=True)],
        "GRU": [Layout("ir/kernel iz/kernel in/kernel", "hr/kernel hz/kernel hn/kernel", "ir/bias iz/bias in/bias",
                       "- - hn/bias", transposed=True),
                Layout("dense_i/kernel", "dense_h/kernel", "dense_i/bias", "", transposed=True)],
        "LSTM": [Layout(f"ii/kernel {f}/kernel ig/kernel io/kernel", "hi/kernel hf/kernel hg/kernel ho/kernel", "",
                        "hi/bias hf/bias hg/bias ho/bias", transposed=True) for f in ("if", "if_")] +
                [Layout("dense_i/kernel", "dense_h/kernel", "", "dense_h/bias", transposed=True)]},
    "haiku": {
        "RNN": [Layout("linear/w", "linear_1/w", "linear/b", "linear_1/b", transposed=True, nonlinearity="relu")],
        "GRU": [Layout("w_i", "w_h", "b", "", "zrn", transposed=True, reset="before", update="replaces")],
        "LSTM": [Layout("linear/w", "linear/w", "linear/b", "", "igfo", transposed=True, forget_bias=1.0)]},
    "keras": {"RNN": _keras("h"), "GRU": _keras("zrn", reset=""), "LSTM": _keras("ifgo")},
    "mlx": {
        "RNN": [Layout("Wxh", "Whh", "bias", "")],
        "GRU": [Layout("Wx", "Wh", "b", "- - bhn")],
        "LSTM": [Layout("Wx", "Wh", "bias", "")]},
    "paddle": {"RNN": PADDLE, "GRU": PADDLE, "LSTM": PADDLE},
    "tf1": {
        "RNN": [Layout("kernel", "kernel", "bias", "", transposed=True)],
        "GRU": [Layout("gates/kernel candidate/kernel", "gates/kernel candidate/kernel", "gates/bias candidate/bias",
                       "", transposed=True, reset="before")],
        "LSTM": [Layout("kernel", "kernel", "bias", "", "igfo", transposed=True, forget_bias=1.0)]},
}


def from_torch(layer: Any, state: Mapping[str, Any]) -> State:
    """The state_dict of a torch.nn.RNN, GRU or LSTM, of all its layers at once: its keys are ours.

    Values are tensors on the CPU, or arrays. A state_dict does not tell tanh from relu: choose `nonlinearity` alike.
    Raises ValueError for a state of an LSTM with proj_size where the layer has none, or the other way round, and for a
    GRU here with `reset="before"`, which PyTorch has not.

    >>> theirs = {"weight_ih_l0": np.zeros((12, 3)), "weight_hh_l0": np.zeros((12, 4)),     # torch_gru.state_dict()
    ...           "bias_ih_l0": np.zeros(12), "bias_hh_l0": np.zeros(12)}
    >>> gru = nn.GRU(3, 4)
    >>> gru.load_state_dict(nn.convert.from_torch(gru, theirs))
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    """
    name = name_of("from_torch", layer)
    mapping("from_torch", "state", state)
    same(layer, EQUATIONS["gru" if name == "GRU" else layer.kind])
    if any(key.startswith("weight_hr") for key in state) != bool(layer.proj_size):
        raise ValueError(f"from_torch: expected the state of a layer with proj_size={layer.proj_size}, in which "
                         f"weight_hr is {'there' if layer.proj_size else 'not there: give nn.LSTM the same proj_size'}")
    return {key: as_array("from_torch", key, value) for key, value in state.items()}


def from_gates(
    layer: Any, arrays: Any, preset: str | None = None, *, prefix: str | Sequence[str] = "", order: str | None = None,
    forget_bias: float | None = None, reset: str | None = None, update: str | None = None,
    transposed: bool | None = None, interleaved: bool | None = None,
) -> State:
    """Weights of another framework's cells, in whatever layout, as the state_dict of an RNN, GRU or LSTM here.

    Either by the `preset` of a framework: `arrays` is what its file has, {name: array}, nested or not, of which those
    under `prefix` are the layer's; of a stack or of both directions a list of prefixes, layer 0, its reverse direction,
    layer 1, ..., unless the framework's names count them. Presets, each held to outputs of the real library:

        chainer  links.NStepRNN, NStepGRU, NStepLSTM and NStepBi..., L.LSTM, StatelessLSTM, StatefulGRU, StatelessGRU
        dynet    SimpleRNNBuilder, GRUBuilder, VanillaLSTMBuilder, CompactVanillaLSTMBuilder
        fastai   WeightDropout around an LSTM, of versions 1 and 2: "weight_hh_l0_raw" counts, not the other
        flax     linen's and nnx' SimpleCell, GRUCell, LSTMCell, OptimizedLSTMCell
        haiku    VanillaRNN (relu), GRU, LSTM
        keras    a cell of 2 or 3: SimpleRNN, GRU, LSTM with the default activations (`from_keras` reads the settings)
        mlx      RNN, GRU, LSTM
        paddle   SimpleRNN, GRU, LSTM and their cells
        tf1      rnn_cell's BasicRNNCell, GRUCell, BasicLSTMCell, LSTMCell, as in bilm

    Or by saying it: `arrays` is (W, U), (W, U, b) or (W, U, b, d) of the equations (a list of them for a stack or both
    directions), W (G H, I) and U (G H, H), b and d (G H,) or None; or W (G, H, I), and so on, such as a list of one
    array a gate. Where U is None, W takes x and h, side by side. What is said overrules the preset:

        order        the gates from the first rows on: "ifgo" of an LSTM, "rzn" of a GRU, as here, in any order. g and n
                     are what may be stored (c, j or h elsewhere), z is the update gate (u)
        forget_bias  what is added to the forget gate's b when that framework runs
        reset        "after" or "before": the equation of a GRU's n
        update       "keeps" if z weighs the old h, as here, or "replaces" if it weighs n: then its weights are negated
        transposed   whether W is (I, G H), and so on
        interleaved  whether rows are all gates of unit 0, then of unit 1, ...

    Chainer's StatefulGRU leaves the biases of U, U_r and U_z out of a first step without a state; nothing here does.

    Raises ValueError for what the layer cannot compute, an LSTM here with proj_size, whose weight_hr no layout has,
    shapes that do not fit, and arrays under `prefix` that would not be read: of more layers, peepholes, projections.

    >>> lstm = nn.LSTM(3, 4)
    >>> W, U, b = np.zeros((3, 16)), np.zeros((4, 16)), np.zeros(16)
    >>> state = nn.convert.from_gates(lstm, (W, U, b), order="ifog", forget_bias=1.0, transposed=True)
    >>> lstm.load_state_dict(state)
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    >>> ts.all(lstm.bias_ih_l0[4:8] == 1), float(ts.sum(lstm.bias_ih_l0))
    (tensor(True), 4.0)
    >>> mlx = {"encoder.Wx": np.ones((16, 3)), "encoder.Wh": np.ones((16, 4)), "encoder.bias": np.ones(16)}
    >>> lstm.load_state_dict(nn.convert.from_gates(lstm, mlx, "mlx", prefix="encoder."))
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    """
    name, cells = name_of("from_gates", layer), layer.num_layers * layer.directions
    options = {"order": order, "forget_bias": forget_bias, "reset": reset, "update": update, "transposed": transposed,
               "interleaved": interleaved}
    said = _checked(name, {option: value for option, value in options.items() if value is not None})
    if preset is None:
        flat = _spoken(arrays, cells)
        layouts = [Layout(U="{n}/U" if "0/U" in flat else "{n}/W")]
    else:
        check.choice("from_gates", [*PRESETS], preset=preset)
        flat = dict(_flat("", mapping("from_gates", "arrays", arrays)))
        layouts = PRESETS[preset].get(name, [])
    places = _places(layer, prefix)
    layout = _chosen(layouts, flat, places, preset)
    layout = layout._replace(**({"order": layout.order or OURS[name]} | said))
    state: State = {}
    for index in range(layer.num_layers):
        here = places[index * layer.directions:(index + 1) * layer.directions]
        parts = [_cell(layer, layout, flat, place) for place in here]
        state |= state_of("from_gates", layer, index, parts, [layout.order.index(gate) for gate in OURS[name]])
    read = {key for place in places for text in (*layout[:4], layout.stale) for key in _keys(layout, text, place)}
    starts = tuple(place["prefix"] for place in places)
    if left := sorted(key for key in flat.keys() - read if key.startswith(starts)):
        raise ValueError(f"from_gates: {left[:9]} would not be read: if they are of something else, say prefix=...; a "
                         f"{type(layer).__name__} of {layer.num_layers} layer(s) and {layer.directions} direction(s) "
                         "has no place for them")
    return state


def _checked(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """Options that fit the kind of layer."""
    ours = OURS[name]
    if "order" in said and (not isinstance(said["order"], str) or sorted(said["order"]) != sorted(ours)):
        raise ValueError(f"from_gates: expected order to have each of {', '.join(ours)} once, for a {name}, got "
                         f"{said['order']!r}")
    for option, kind in (("forget_bias", "LSTM"), ("reset", "GRU"), ("update", "GRU")):
        if option in said and name != kind:
            raise ValueError(f"from_gates: {option} is of a {kind}, got {said[option]!r} for a {name}")
    if "forget_bias" in said:
        said["forget_bias"] = check.numbers("from_gates", forget_bias=said["forget_bias"])
    for option, among in (("reset", ("after", "before")), ("update", ("keeps", "replaces")),
                          ("transposed", (True, False)), ("interleaved", (True, False))):
        if option in said:
            check.choice("from_gates", among, **{option: said[option]})
    return said


def _spoken(arrays: Any, cells: int) -> dict[str, Any]:
    """Arrays of the equations by name, as those of a file."""
    given = [arrays] if cells == 1 else arrays
    if isinstance(arrays, Mapping) or not isinstance(given, (list, tuple)) or len(given) != cells or not all(
            isinstance(four, (list, tuple)) and 2 <= len(four) <= 4 for four in given):
        raise TypeError(f"from_gates: expected arrays as (W, U, b, d){f', {cells} of them in a list' * (cells > 1)}, "
                        f"or a dictionary and its preset, one of {', '.join(PRESETS)}; got {check.describe(arrays)}")
    return {f"{n}/{key}": array for n, four in enumerate(given) for key, array in zip("WUbd", four, strict=False)
            if array is not None}


def _flat(path: str, arrays: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in arrays.items():
        yield from _flat(f"{path}{key}/", value) if isinstance(value, Mapping) else [(f"{path}{key}", value)]


def _places(layer: Any, prefix: Any) -> list[dict[str, Any]]:
    """Of each layer and direction, its prefix and the numbers that names may have."""
    cells = layer.num_layers * layer.directions
    prefixes = [prefix] * cells if isinstance(prefix, str) else prefix
    if not isinstance(prefixes, (list, tuple)) or [type(text) for text in prefixes] != [str] * cells:
        raise ValueError(f"from_gates: expected prefix as a string or as a list of {cells}, one for each layer and "
                         f"direction, got {prefix!r}")
    counts = [n if isinstance(prefix, str) else 0 for n in range(cells)]
    return [{"prefix": text, "n": n, "layer": n // layer.directions, "reverse": "_reverse" * (n % layer.directions)}
            for text, n in zip(prefixes, counts, strict=True)]


def _keys(layout: Layout, text: str, place: Mapping[str, Any]) -> list[str]:
    """The names that a field of a layout has for one cell."""
    size = len({name for field in layout[:4] for name in field.split()})
    k = range(place["n"] * size, (place["n"] + 1) * size)
    return [place["prefix"] + name.format(k=k, **place) for name in text.split()]


def _chosen(layouts: Sequence[Layout], flat: Mapping[str, Any], places: list[dict[str, Any]], preset: Any) -> Layout:
    """That whose arrays are there."""
    wanted = []
    for layout in layouts:
        needed = [_keys(layout, f"{layout.W} {layout.U}", place) for place in places]
        if all(key in flat for keys in needed for key in keys):
            if len(needed) > 1 and needed[0] == needed[1]:
                raise ValueError(f"from_gates: names of {preset} do not count layers and directions: expected prefix "
                                 f"as a list of {len(places)}, got {places[0]['prefix']!r}")
            return layout
        wanted.append(" ".join(dict.fromkeys(needed[0])))
    names = " or ".join(wanted) or "otherwise, it has no such layer,"
    raise ValueError(f"from_gates: expected from {preset} arrays named {names} for each layer and direction, got "
                     f"{sorted(flat)[:9]}: say prefix=... as their names begin")


def _cell(layer: Any, layout: Layout, flat: Mapping[str, Any], place: Mapping[str, Any]) -> list[Array]:
    """W, U, b and d of one cell, as the equations have them but for the order of gates."""
    W, U, b, d = (_stacked(layout, flat, _keys(layout, text, place), axes, layer.hidden_size)
                  for text, axes in ((layout.W, 2), (layout.U, 2), (layout.b, 1), (layout.d, 1)))
    if layout.U == layout.W:
        W, U = W[:, :-layer.hidden_size], W[:, -layer.hidden_size:]
    reset = layout.reset or (b is not None and ("after" if b.ndim == 2 else "before"))
    if b is not None and b.ndim == 2:
        b, d = b
    if isinstance(layer, GRU):
        if not reset:
            raise ValueError("from_gates: without a bias nothing tells whether r acts after or before the product: say "
                             "reset=..., as reset_after is in the configuration")
        same(layer, EQUATIONS["gru" if reset == "after" else "gru_before"])
    if layout.nonlinearity:
        same(layer, EQUATIONS[f"rnn_{layout.nonlinearity}"])
    zeros = np.zeros(len(W), W.dtype)
    b, d = (zeros if array is None else array for array in (b, d))
    more = [layout.forget_bias if gate == "f" else 0.0 for gate in layout.order]
    b = b + np.repeat(more, layer.hidden_size).astype(b.dtype)
    if layout.update == "replaces":     # 1 - sigmoid(x) = sigmoid(-x)
        signs = [-1 if gate == "z" else 1 for gate in layout.order]
        sign = np.repeat(signs, layer.hidden_size).astype(W.dtype)
        W, U, b, d = sign[:, None] * W, sign[:, None] * U, sign * b, sign * d
    return [W, U, b, d]


def _stacked(layout: Layout, flat: Mapping[str, Any], keys: Sequence[str], axes: int, hidden: int) -> Any:
    """The arrays of these names, one below the other, gate by gate; None if there are none."""
    rows, parts = hidden * len(layout.order), []
    for key in keys:
        array = as_array("from_gates", key, flat.get(key, np.zeros(hidden)))
        two = axes == 1 and array.shape == (2, rows)    # Keras' GRU
        each = list(array) if array.ndim == axes + 1 and not two else [array]
        parts += [part.T if layout.transposed and axes == 2 else part for part in each]
    if not any(key in flat for key in keys):
        return None
    if any(part.ndim != parts[0].ndim or part.shape[1:] != parts[0].shape[1:] for part in parts) or (
            not two and sum(len(part) for part in parts if part.ndim) != rows):
        raise ValueError(f"from_gates: expected {' + '.join(keys)} to have {len(layout.order)} gates of {hidden} "
                         f"{'columns' if layout.transposed and axes == 2 else 'rows'}, got shapes "
                         f"{[part.shape[::-1] if layout.transposed else part.shape for part in parts]}")
    array = np.concatenate(parts)
    array = array if array.dtype.kind == "f" else array.astype(np.float64)
    if layout.interleaved:
        array = array.reshape(hidden, len(layout.order), -1).swapaxes(0, 1).reshape(array.shape)
    return array


def name_of(where: str, layer: Any) -> str:
    """RNN, GRU or LSTM, if the layer is one."""
    if isinstance(layer, (RNN, GRU, LSTM)):
        return layer.kind.partition("_")[0].upper()
    raise TypeError(f"{where}: expected layer as the nn.RNN, GRU or LSTM that the weights are for, got a "
                    f"{type(layer).__name__}")


def mapping(where: str, name: str, value: Any) -> Mapping[str, Any]:
    """A dictionary of names."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{where}: expected {name} as a dictionary of names, got a {type(value).__name__}")
    return value


def as_array(where: str, name: str, value: Any, axes: int | None = None) -> Array:
    """A value as an array of numbers of so many axes."""
    try:
        array = np.asarray(value)
    except Exception as error:  # of whatever library the value is from
        raise TypeError(f"{where}: expected {name} as an array that NumPy reads, got a {type(value).__name__}: "
                        f"{error}") from error
    if array.dtype.kind not in "fiu" or array.ndim != (array.ndim if axes is None else axes):
        raise ValueError(f"{where}: expected {name} as numbers{'' if axes is None else f' of {axes} axes'}, got a "
                         f"{type(value).__name__} of {array.dtype}, shape {array.shape}")
    return array


def same(layer: Any, equation: str) -> None:
    """Refuse weights that are made for another equation than the layer's."""
    if equation != EQUATIONS[layer.kind]:
        ours = f"the {type(layer).__name__} here computes {EQUATIONS[layer.kind]}"
        raise ValueError(f"these weights are for {equation}; {ours}")


def state_of(where: str, layer: Any, index: int, parts: Sequence[Any], order: Sequence[int] | None) -> State:
    """Keys and checked values from (W, U, b, d) of each direction, the gates brought into PyTorch's order."""
    state: State = {}
    if layer.proj_size:
        raise ValueError(f"{where}: of an LSTM with proj_size={layer.proj_size} only from_torch reads weight_hr")
    if len(parts) != layer.directions:
        raise ValueError(f"{where}: {type(layer).__name__} has {layer.directions} direction(s), the weights have "
                         f"{len(parts)}")
    for suffix, arrays in zip(("", "_reverse"), parts, strict=False):
        for key, a in zip(KEYS, arrays, strict=True):
            name = f"{key}_l{index}{suffix}"
            here = getattr(layer, name, None)
            if here is None and not np.any(a):
                continue  # no bias here, and none there
            if here is None or here.shape != a.shape:
                raise ValueError(f"{where}: {name}: {a.shape} given, {None if here is None else here.shape} here")
            gates = a.reshape(-1, layer.hidden_size, *a.shape[1:])
            state[name] = gates[list(order or range(len(gates)))].reshape(a.shape)
    return state
