import numpy as np
import tinyseq as ts
from tinyseq import nn, optim, plot
from tinyseq.functional import associative_scan, softplus

rng = np.random.default_rng(0)
compose = lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1])      # two steps h -> a h + b as one
moved, rates = {}, ts.tensor(np.geomspace(0.05, 1, 64), "float32")
for name, selects in {"by the clock": 0, "selective": 1}.items():
    ts.manual_seed(0)
    new, size, out = nn.Linear(6, 64), nn.Linear(6, 64), nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 15))
    optimizer = optim.Adam([p for part in (new, size, out) for p in part.parameters()], lr=5e-3)
    for step in range(401):
        ids, symbols = np.full((64, 12), 5), rng.integers(5, size=(64, 3))
        for row, three in zip(ids, symbols):                                # three symbols in twelve steps of nothing
            row[np.sort(rng.choice(12, 3, replace=False))] = three
        x = ts.one_hot(ids, 6)
        a = ts.exp(-softplus(size(selects * x)) * rates)                    # does x_t say how far the state moves?
        _, h = associative_scan(compose, (a, (1 - a) * new(x)), 1)
        scores = out(h[:, -1]).reshape((-1, 3, 5))
        loss = ts.functional.cross_entropy(scores, symbols)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            right = np.mean(scores.detach().numpy().argmax(2) == symbols)
            print(f"{name}, step {step}: loss {loss.item():.2f}, {right:.0%} right")
    moved[name] = np.arange(12), 1 - a.detach().numpy()[0].mean(1)
    display(plot.curves({"how far the state moves": moved}, f"step; symbols at {np.flatnonzero(ids[0] < 5)}"))
