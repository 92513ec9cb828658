import numpy as np
import tinyseq as ts
from tinyseq import data, nn, optim, plot

ts.manual_seed(0)
rng = np.random.default_rng(0)
file = np.load("japanese_vowels.npz")                               # 640 times two vowels, by nine speakers
frames, ends, speakers = file["frames"] / np.float32(1e4), np.cumsum(file["lengths"]), file["speakers"].astype(int) - 1
said = np.split(frames, ends[:-1])                                  # (T, 12) each; the first 270 to learn from
rnn, out = nn.GRU(12, 32, bidirectional=True), nn.Linear(64, 9)

def scores(utterances):                                             # of the speakers, from the mean of all states
    x, lengths = data.pad(utterances)
    states, _ = rnn(ts.tensor(x), lengths=lengths)                  # 0 after the end
    return out(ts.sum(states, 1) / lengths[:, None].astype("f"))

optimizer = optim.Adam([*rnn.parameters(), *out.parameters()], lr=5e-3)
heard = [1, 2, 4, 8, 12, 16, 20]
for step in range(301):
    rows = rng.integers(270, size=32)
    loss = ts.functional.cross_entropy(scores([said[i][: rng.integers(3, 30)] for i in rows]), speakers[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        with ts.no_grad():
            right = [scores([u[:n] for u in said[270:]]).numpy().argmax(1) == speakers[270:] for n in heard]
        rates = [100 * np.mean(part) for part in right]
        print(f"step {step}: loss {loss.item():.2f}, {rates[-1]:.1f}% right on 370 others (a guess: 11.1%)")
        display(plot.curves({"right, %": (heard, rates)}, "frames heard"))
