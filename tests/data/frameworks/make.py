"""How the files beside this one were made: `python make.py FRAMEWORK`, in an environment with that framework alone.

Each gives random weights of its cells, as the framework names and saves them, and what they compute from `x` (2, 5, 3)
with 4 hidden units: FRAMEWORK.npz, .txt of DyNet or .zip of Keras' files, and FRAMEWORK_y.npz.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)
X, H = RNG.standard_normal((2, 5, 3)).astype(np.float32), 4


def noise(shape):
    return RNG.standard_normal(tuple(shape)).astype(np.float32)


def steps(step, state):
    """y (B, T, H) of a cell step(state, x) -> state, y."""
    ys = []
    for t in range(X.shape[1]):
        state, y = step(state, X[:, t])
        ys.append(np.array(y))
    return np.stack(ys, 1)


def chainer():
    import chainer
    import chainer.links as L

    model = chainer.Chain()
    with model.init_scope():
        model.nstep_lstm, model.nstep_bilstm = L.NStepLSTM(2, 3, H, 0.0), L.NStepBiLSTM(2, 3, H, 0.0)
        model.nstep_gru, model.nstep_bigru = L.NStepGRU(1, 3, H, 0.0), L.NStepBiGRU(1, 3, H, 0.0)
        model.nstep_tanh, model.nstep_relu = L.NStepRNNTanh(1, 3, H, 0.0), L.NStepRNNReLU(1, 3, H, 0.0)
        model.lstm, model.stateless_lstm = L.LSTM(3, H), L.StatelessLSTM(3, H)
        model.gru, model.stateless_gru = L.StatefulGRU(3, H), L.StatelessGRU(3, H)
        model.peephole = L.StatefulPeepholeLSTM(3, H)
    for p in model.params():
        p.array[...] = noise(p.shape)
    ys = {}
    for name in ("nstep_lstm", "nstep_bilstm", "nstep_gru", "nstep_bigru", "nstep_tanh", "nstep_relu"):
        given = [None, None, list(X)] if "lstm" in name else [None, list(X)]
        ys[name] = np.stack([y.array for y in model[name](*given)[-1]])
    for name in ("lstm", "gru"):
        if name == "gru":  # without a state it leaves the biases of U, U_r and U_z out
            model.gru.set_state(chainer.Variable(np.zeros((2, H), np.float32)))
        ys[name] = steps(lambda s, x, link=model[name]: (s, link(x).array), None)
    c = h = np.zeros((2, H), np.float32)

    def stateless_lstm(s, x):
        c, h = model.stateless_lstm(*s, x)
        return (c, h), h.array

    def stateless_gru(h, x):
        h = model.stateless_gru(h, x)
        return h, h.array

    ys["stateless_lstm"], ys["stateless_gru"] = steps(stateless_lstm, (c, h)), steps(stateless_gru, h)
    chainer.serializers.save_npz(HERE / "chainer.npz", model)
    return ys


def mlx():
    import mlx.core as mx
    import mlx.nn as nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.gru, self.lstm = nn.RNN(3, H), nn.GRU(3, H), nn.LSTM(3, H)

    model = Model()
    model.update(map_tree(lambda a: mx.array(noise(a.shape)), model.parameters()))
    model.save_weights(str(HERE / "mlx.npz"))
    model.save_weights(str(HERE / "mlx.safetensors"))
    mx.savez(str(HERE / "mlx_bfloat16.npz"), w=mx.ones((2,), mx.bfloat16))
    return {"rnn": np.array(model.rnn(mx.array(X))), "gru": np.array(model.gru(mx.array(X))),
            "lstm": np.array(model.lstm(mx.array(X))[0])}


def map_tree(f, tree):
    return {key: map_tree(f, value) if isinstance(value, dict) else f(value) for key, value in tree.items()}


def flax():
    import jax
    from flax import linen, nnx
    from flax.traverse_util import flatten_dict

    params, ys = {}, {}
    for name in ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell", "MGUCell"):
        cell = getattr(linen, name)(H)
        start = cell.initialize_carry(jax.random.key(0), X[:, 0].shape)
        p = map_tree(lambda a: noise(a.shape), cell.init(jax.random.key(0), start, X[:, 0])["params"])
        params[f"linen_{name}"] = p
        ys[f"linen_{name}"] = steps(lambda s, x, cell=cell, p=p: cell.apply({"params": p}, s, x), start)
    for name in ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"):
        cell = getattr(nnx, name)(3, H, rngs=nnx.Rngs(0))
        p = map_tree(lambda a: noise(a.shape), nnx.to_pure_dict(nnx.state(cell, nnx.Param)))
        nnx.update(cell, map_tree(jax.numpy.asarray, p))
        params[f"nnx_{name}"] = p
        ys[f"nnx_{name}"] = steps(cell, cell.initialize_carry(X[:, 0].shape, rngs=nnx.Rngs(0)))
    np.savez(HERE / "flax.npz", **flatten_dict(params, sep="/"))
    return ys


def haiku():
    import haiku as hk
    import jax
    from flax.traverse_util import flatten_dict

    params, ys = {}, {}
    for name in ("LSTM", "GRU", "VanillaRNN"):
        def run(x, name=name):
            cell = getattr(hk, name)(H, name=name.lower())
            return hk.dynamic_unroll(cell, x, cell.initial_state(2), time_major=False)[0]

        run = hk.without_apply_rng(hk.transform(run))
        p = map_tree(lambda a: noise(a.shape), run.init(jax.random.key(0), X))
        params |= p
        ys[name.lower()] = np.array(run.apply(p, X))
    np.savez(HERE / "haiku.npz", **flatten_dict(params, sep="/"))
    return ys


def paddle():
    import paddle

    arrays, ys = {}, {}
    for name in ("SimpleRNN", "GRU", "LSTM"):
        layer = getattr(paddle.nn, name)(3, H, direction="bidirect")
        cell = getattr(paddle.nn, f"{name}Cell")(3, H)
        for p in (*layer.parameters(), *cell.parameters()):
            p.set_value(noise(p.shape))
        ys[name] = layer(paddle.to_tensor(X))[0].numpy()
        ys[f"{name}Cell"] = paddle.nn.RNN(cell)(paddle.to_tensor(X))[0].numpy()
        for key, module in ((name, layer), (f"{name}Cell", cell)):
            arrays |= {f"{key}.{k}": v.numpy() for k, v in module.state_dict().items()}
        if name == "GRU":
            paddle.save(cell.state_dict(), str(HERE / "paddle.pdparams"))
    np.savez(HERE / "paddle.npz", **arrays)
    return ys


def dynet():
    import dynet as dy

    model, ys = dy.ParameterCollection(), {}
    builders = {"lstm": dy.VanillaLSTMBuilder(2, 3, H, model), "compact": dy.CompactVanillaLSTMBuilder(1, 3, H, model),
                "gru": dy.GRUBuilder(1, 3, H, model), "rnn": dy.SimpleRNNBuilder(1, 3, H, model)}
    two, words = dy.BiRNNBuilder(1, 3, 2 * H, model, dy.GRUBuilder), model.add_lookup_parameters((5, 3), name="words")
    for p in model.parameters_list():
        p.set_value(noise(p.shape()))
    ys["words"] = noise((5, 3))
    words.init_from_array(ys["words"])
    for name, builder in [*builders.items(), ("birnn", two)]:
        rows = []
        for row in X:
            dy.renew_cg()
            inputs = [dy.inputVector(x) for x in row]
            outputs = two.transduce(inputs) if name == "birnn" else builder.initial_state().transduce(inputs)
            rows.append([y.npvalue() for y in outputs])
        ys[name] = np.array(rows)
    model.save(str(HERE / "dynet.txt"))
    return ys


def tf1():
    import tensorflow as tf

    v1, arrays, ys = tf.compat.v1, {}, {}
    v1.disable_eager_execution()
    cells = {"basic_lstm": v1.nn.rnn_cell.BasicLSTMCell(H), "lstm": v1.nn.rnn_cell.LSTMCell(H),
             "lstm_0": v1.nn.rnn_cell.LSTMCell(H, forget_bias=0.0), "gru": v1.nn.rnn_cell.GRUCell(H),
             "rnn": v1.nn.rnn_cell.BasicRNNCell(H), "peephole": v1.nn.rnn_cell.LSTMCell(H, use_peepholes=True)}
    out = {name: v1.nn.dynamic_rnn(cell, X, dtype=tf.float32, scope=name)[0] for name, cell in cells.items()}
    with v1.Session() as session:
        for variable in v1.global_variables():
            value = noise(variable.shape.as_list())
            variable.load(value, session)
            arrays[variable.name.removesuffix(":0")] = value
        ys = session.run(out)
    np.savez(HERE / "tf1.npz", **arrays)
    return ys


def fastai():
    import torch
    from fastai.text.models.awdlstm import AWD_LSTM

    model = AWD_LSTM(10, 3, H, 2, pad_token=0).eval()
    state = {key: torch.from_numpy(noise(value.shape)) for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    hidden, ys = torch.from_numpy(X), {}
    for i, layer in enumerate(model.rnns):  # its last is as wide as the embedding
        hidden = layer(hidden, (torch.zeros(1, 2, [H, 3][i]),) * 2)[0]
        ys[f"rnns.{i}"] = hidden.detach().numpy()
    np.savez(HERE / "fastai.npz", **{key: value.numpy() for key, value in state.items()})
    return ys


def keras():
    import keras

    return keras_files(keras, "keras", "keras h5 weights.h5")


def keras_305():
    import keras

    return keras_files(keras, "keras_305", "keras weights.h5")


def keras_2():
    from tensorflow import keras

    return keras_files(keras, "keras_2", "keras h5 weights.h5")


def keras_files(keras, name, endings):
    """One model with all kinds of recurrent layers, each on x, one of them shared with a model in it."""
    L, all_ = keras.layers, {"return_sequences": True}
    own = L.GRU(H, use_bias=False, go_backwards=True, name="own", **all_)
    shared = L.LSTM(H, name="shared", **all_)
    x = keras.Input((5, 3))
    inner = keras.Model(x, [shared(x), L.GRU(H, reset_after=False, name="deep", **all_)(x)], name="inner")
    x = keras.Input((5, 3))
    layers = [L.LSTM(H, dropout=0.1, name="first", **all_), shared, L.GRU(H, name="gru", **all_),
              L.Bidirectional(L.LSTM(H, **all_), name="both"),
              L.Bidirectional(L.GRU(H, **all_), backward_layer=own, name="two"),
              L.RNN(L.LSTMCell(H), name="cells", **all_), L.LSTM(H, name="last", **all_),
              L.SimpleRNN(H, activation="relu", name="relu", **all_)]
    ys = [*inner(x), *(layer(x) for layer in layers)]
    model = keras.Model(x, ys)
    model.set_weights([noise(w.shape) for w in model.get_weights()])
    with zipfile.ZipFile(HERE / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.json", model.to_json())
        for ending in endings.split():
            path = Path(f"model.{ending}")
            model.save_weights(path) if ending == "weights.h5" else model.save(path)
            file.write(path)
            path.unlink()
    found = [np.array(y) for y in model.predict(X)]
    names = ["inner/shared", "inner/deep", *(layer.name for layer in layers)]
    return dict(zip(names, found, strict=True))


if __name__ == "__main__":
    [name] = sys.argv[1:]
    np.savez(HERE / f"{name}_y.npz", x=X, **globals()[name]())
