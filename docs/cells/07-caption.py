import numpy as np
import tinyseq as ts
from tinyseq import data, decode, nn, optim, plot

ts.manual_seed(0)
rng, words = np.random.default_rng(0), data.Vocabulary("0123456789")
images, labels = (np.load("digits.npz")[name] for name in ("images", "labels"))     # (1797, 8, 8), from 0 to 16

def strips(size, low, high):                                        # two digits each, somewhere in 24 columns
    x, which = np.zeros((size, 8, 24), "f"), rng.integers(low, high, (size, 2))
    for strip, (a, b) in zip(x, which):
        first, second = rng.integers(0, 5), rng.integers(13, 17)
        strip[:, first : first + 8], strip[:, second : second + 8] = images[a] / 16, images[b] / 16
    return x, np.array([[words.start, *words.encode(text), words.end] for text in labels[which].astype(str)])

eye = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.LearnedPositions(17, 64))
decoder = nn.AttentionDecoder(len(words), 16, 64, nn.AdditiveAttention(64, 64, 64), 64, feed="context")
windows = lambda x: np.stack([x[:, :, i : i + 8].reshape(-1, 64) for i in range(17)], 1)
look = lambda x: decoder.start(eye(ts.tensor(windows(x))))
optimizer = optim.Adam([*eye.parameters(), *decoder.parameters()], lr=5e-3)
for step in range(1, 401):
    x, y = strips(32, 0, 1200)
    loss = ts.functional.cross_entropy(decoder(y[:, :-1], look(x)), y[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        x, y = strips(200, 1200, 1797)                              # by other writers
        found = decode.greedy(decoder, look(x), words.start, words.end, max_length=3)
        right, said = [h.tokens == row[1:3].tolist() for h, row in zip(found, y)], words.decode(found[0].tokens)
        print(f"update {step}: loss {loss.item():.2f}, {np.mean(right):.0%} right; below it says {said}")
        looks = np.pad(found[0].alignment[: len(said)], ((0, 0), (4, 3)))
        display(plot.attention([x[0], looks], [" " * 8, said], [" " * 24] * 2))
