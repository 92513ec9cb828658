"""How the files beside this one were made: pip install keras==3.15.1 scipy; KERAS_BACKEND=numpy python make.py."""

import json
from pathlib import Path

import keras
import numpy as np
from keras.layers import GRU, LSTM, RNN, Bidirectional, GRUCell, LSTMCell, SimpleRNN, SimpleRNNCell

HERE = Path(__file__).parent
ALL = {"return_sequences": True}
BACK = {"return_sequences": True, "go_backwards": True}
HARD = {"recurrent_activation": "hard_sigmoid"}
LAYERS = {  # a name begins with that of our layer; what is in "refused" is not computed here
    "RNN": SimpleRNN(2, **ALL), "RNN relu": SimpleRNN(2, activation="relu", use_bias=False, **ALL),
    "RNN cell": RNN(SimpleRNNCell(2), **ALL),
    "GRU": GRU(2, dropout=0.3, **ALL), "GRU before": GRU(2, reset_after=False, **ALL),
    "GRU cell": RNN(GRUCell(2), **ALL), "GRU before cell": RNN(GRUCell(2, reset_after=False), **ALL),
    "LSTM": LSTM(2, unroll=True, **ALL), "LSTM cell": RNN(LSTMCell(2, use_bias=False), **ALL),
    "GRU two": Bidirectional(GRU(2, **ALL)), "LSTM two cells": Bidirectional(RNN(LSTMCell(2), **ALL)),
    "LSTM two own": Bidirectional(LSTM(2, **ALL), backward_layer=LSTM(2, use_bias=False, **BACK)),
    "LSTM refused back": Bidirectional(LSTM(2, **ALL), backward_layer=LSTM(2, **HARD, **BACK)),
    "LSTM refused back relu": Bidirectional(LSTM(2, **ALL), backward_layer=LSTM(2, activation="relu", **BACK)),
    "LSTM refused cell": RNN(LSTMCell(2, **HARD), **ALL), "GRU refused cell": RNN(GRUCell(2, activation="relu"), **ALL),
    "LSTM refused stack": RNN([LSTMCell(2), LSTMCell(2)], **ALL), "LSTM refused backwards": LSTM(2, **BACK),
    "LSTM refused stateful": LSTM(2, stateful=True, **ALL),
    "GRU refused sum": Bidirectional(GRU(2, **ALL), merge_mode="sum"),
    "GRU refused kind": RNN(LSTMCell(2), **ALL), "RNN refused elu": SimpleRNN(2, activation="elu", **ALL)}


def main() -> None:
    rng = np.random.default_rng(0)
    x, configs, arrays = rng.standard_normal((2, 4, 3)).astype(np.float32), {}, {}
    for name, layer in LAYERS.items():
        configs[name] = layer.get_config()
        if "refused" in name:
            continue
        layer.build(x.shape)
        layer.set_weights([rng.standard_normal(w.shape).astype(np.float32) for w in layer.get_weights()])
        arrays |= {f"{name}.{i}": w for i, w in enumerate(layer.get_weights())} | {f"{name}.y": np.asarray(layer(x))}
    (HERE / "configs.json").write_text(json.dumps({"keras": keras.__version__, "configs": configs}) + "\n", "utf-8")
    np.savez_compressed(HERE / "expected.npz", x=x, **arrays)


if __name__ == "__main__":
    main()
