from itertools import groupby
import numpy as np
import tinyseq as ts
from tinyseq import nn, optim, plot

ts.manual_seed(0)
rng = np.random.default_rng(0)
images, labels = (np.load("digits.npz")[name] for name in ("images", "labels"))     # (1797, 8, 8), from 0 to 16

def strips(size, low, high):                                        # two digits of different widths: nobody says where
    x, which = np.zeros((size, 24, 8), "f"), rng.integers(low, high, (size, 2))
    for strip, row in zip(x, which):
        first, second = rng.integers(6, 11, 2)
        strip[2 : first + 2] = images[row[0]].T[np.arange(first) * 8 // first] / 16
        strip[first + 2 : first + second + 2] = images[row[1]].T[np.arange(second) * 8 // second] / 16
    return x, (labels[which] + 1).tolist()                          # label 0 is the blank

rnn, out, ctc = nn.GRU(8, 48, bidirectional=True), nn.Linear(96, 11), nn.CTCLoss()
read = lambda x: ts.functional.log_softmax(out(rnn(ts.tensor(x))[0]))
optimizer = optim.Adam([*rnn.parameters(), *out.parameters()], lr=1e-2)
for step in range(401):
    x, numbers = strips(32, 0, 1200)
    loss = ctc(read(x), numbers, np.full(32, 24), np.full(32, 2))
    optimizer.zero_grad()
    loss.backward()
    optim.clip_grad_norm_(rnn.parameters(), 1.0)
    optimizer.step()
    if step % 100 == 0:
        x, numbers = strips(200, 1200, 1797)                        # by other writers
        p = np.exp(read(x).detach().numpy())
        said = [[label for label, _ in groupby(row) if label] for row in p.argmax(2).tolist()]
        print(f"step {step}: loss {loss.item():.2f}, {np.mean([a == b for a, b in zip(said, numbers)]):.0%} right")
        display(plot.attention([x[0].T, p[0].T], [" " * 8, "_0123456789"], [" " * 24] * 2))
