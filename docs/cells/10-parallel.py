import time
import numpy as np
import tinyseq as ts
from tinyseq import nn, optim, plot

rng = np.random.default_rng(0)
layers = {"GRU": lambda: nn.GRU(16, 32), "MinGRU": lambda: nn.MinGRU(16, 32), "LRU": lambda: nn.LRU(16, 32)}

def texts(size, steps):                                             # one of 8 countries, 8 other characters, and which
    ids = rng.integers(8, 16, (size, steps))
    ids[:, 0] = rng.integers(8, size=size)
    return ts.one_hot(ids, 16), ids[:, 0]

losses, seconds = {}, {}
for name, make in layers.items():
    ts.manual_seed(0)
    rnn, out = make(), nn.Linear(32, 8)
    weights = [*rnn.parameters(), *out.parameters()]
    optimizer, losses[name] = optim.Adam(weights, lr=1e-2), []
    for step in range(300):
        x, right = texts(32, rng.choice([4, 8, 16, 32]))
        loss = ts.functional.cross_entropy(out(rnn(x)[0][:, -1]), right)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses[name].append(loss.item())
    x, _ = texts(1, 1024)
    began = time.perf_counter()
    ts.sum(rnn(x)[0]).backward()                                    # a long sequence, there and back
    spent = 1000 * (time.perf_counter() - began)
    print(f"{name}: loss {np.mean(losses[name][-20:]):.2f}, {spent:.0f} ms for 1,024 steps")
    display(plot.curves({"loss": losses}, "update"))
