import numpy as np
import tinyseq as ts
from tinyseq import data, nn, optim, plot

ts.manual_seed(0)
rng = np.random.default_rng(0)
fillers = "the was in a room old on table".split()
senses = ["gun soldier bullet trigger".split(), "reader editor page article".split()]
words = data.Vocabulary([*fillers, *sum(senses, []), "magazine"])

def batch(size=32):                                                 # seven words, one of which tells the sense
    kinds, texts = rng.integers(2, size=size), rng.choice(fillers, (size, 7)).tolist()
    for kind, text in zip(kinds, texts):
        text[rng.integers(7)] = rng.choice(senses[kind])
    return texts, kinds

query, key, value, out = parts = [nn.Linear(16, 16) for _ in range(3)] + [nn.Linear(16, 2)]
embedding = nn.Embedding(len(words), 16)
def read(texts):                                                    # who asks is "magazine"
    e, x = embedding(words.encode(["magazine"])), embedding([words.encode(text) for text in texts])
    weights = ts.functional.softmax(query(e) @ key(x).mT / 4)       # (batch, 1, 7); 4 is the square root of the width
    return out((weights @ value(x))[:, 0]), weights[:, 0]

optimizer = optim.Adam([p for part in [embedding, *parts] for p in part.parameters()], lr=1e-2)
for step in range(101):
    texts, right = batch()
    scores, weights = read(texts)
    loss = ts.functional.cross_entropy(scores, right)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 25 == 0:
        print(f"step {step}: loss {loss.item():.3f}, {np.mean(scores.detach().numpy().argmax(1) == right):.0%} right")
        display(plot.words(texts[:4], 0.5 + weights.detach().numpy()[:4] / 2, "where 'magazine' looks"))
