import numpy as np
import tinyseq as ts
from tinyseq import lens, nn, optim, plot

rng = np.random.default_rng(0)
layers = {"RNN": nn.RNN, "GRU": nn.GRU, "MinGRU": nn.MinGRU}

def texts(steps):                                                   # one of 8 countries, other characters, and which
    ids = rng.integers(8, 16, (32, steps))
    ids[:, 0] = rng.integers(8, size=32)
    return ts.one_hot(ids, 16), ids[:, 0]

heard = {}
for name, layer in layers.items():
    ts.manual_seed(0)
    rnn, out = layer(16, 32), nn.Linear(32, 8)
    weights = [*rnn.parameters(), *out.parameters()]
    optimizer = optim.Adam(weights, lr=1e-2)
    loss_of = lambda states, right: ts.functional.cross_entropy(out(states[:, -1]), right)
    for step in range(301):
        x, right = texts(rng.choice([4, 8, 16, 32]))
        loss = loss_of(rnn(x)[0], right)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    x, right = texts(32)
    norms = lens.gradients_through_time(rnn, x, lambda states: loss_of(states, right))[0]
    heard[name] = norms, lens.gate_saturation(rnn, x)
    left = norms[:, 0].mean() / norms[:, -1].mean()
    print(f"{name}: loss {loss.item():.3f}; 31 steps back {left:.2g} of the gradient is left")
    display(plot.through_time(heard))
