import numpy as np
import tinyseq as ts
from tinyseq import nn, optim, plot

WIDTHS, CELL = [8, 32], nn.GRU                                      # of h: try 16 or 64, and nn.RNN or nn.LSTM
ASKED = 12                                                          # how far back is asked
rng = np.random.default_rng(0)

def batch(size):                                                    # 20 symbols of four; the last twelve are asked for
    ids = rng.integers(4, size=(size, 20))
    return ts.one_hot(ids, 4), ids[:, : -ASKED - 1 : -1]

right = {"guess": [25.0] * ASKED}
for width in WIDTHS:
    ts.manual_seed(0)
    rnn, out = CELL(4, width), nn.Linear(width, ASKED * 4)
    weights = [*rnn.parameters(), *out.parameters()]
    optimizer = optim.Adam(weights, lr=1e-2)
    for step in range(1, 501):
        x, symbols = batch(64)
        states, _ = rnn(x)
        scores = out(states[:, -1]).reshape((-1, ASKED, 4))         # of all twelve, from the last state alone
        loss = ts.functional.cross_entropy(scores, symbols)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 100 == 0:
            x, symbols = batch(500)
            said = out(rnn(x)[0][:, -1]).detach().numpy().reshape(-1, ASKED, 4).argmax(2)
            right[f"h of {width}"] = 100 * np.mean(said == symbols, 0)
            print(f"h of {width}, update {step}: loss {loss.item():.2f}, {np.mean(said == symbols):.1%} right")
            display(plot.curves({"right, %": right}, "steps back"))
