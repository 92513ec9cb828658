import numpy as np
import tinyseq as ts
from tinyseq import nn, optim, plot

ts.manual_seed(0)
rng = np.random.default_rng(0)
words = "key keys door doors dog dogs the of".split()              # odd ones of the first six are plural

def sentences(size, phrases):                                       # the key (of the dogs)*: is or are?
    ids = np.full((size, 3 * phrases + 5), words.index("the"))      # three more in front: at least five words
    ids[:, 4::3], ids[:, 5::3] = rng.integers(6, size=(size, phrases + 1)), words.index("of")
    return ids, ids[:, 4] % 2

window = nn.Sequential(nn.Linear(5 * 8, 32), nn.ReLU(), nn.Linear(32, 2))
rnn, out = nn.RNN(8, 32), nn.Linear(32, 2)
models = {"window of 5 words": lambda x: window(x[:, -5:].reshape((len(x), -1))), "RNN": lambda x: out(rnn(x)[1][0])}
optimizer = optim.Adam([p for part in (window, rnn, out) for p in part.parameters()], lr=3e-3)
for step in range(601):
    ids, verbs = sentences(64, step % 6)
    losses = [ts.functional.cross_entropy(model(ts.one_hot(ids, 8)), verbs) for model in models.values()]
    optimizer.zero_grad()
    sum(losses).backward()
    optimizer.step()
    if step % 200 == 0:
        tests = [sentences(500, phrases) for phrases in range(9)]
        with ts.no_grad():
            right = {name: [100 * np.mean(model(ts.one_hot(ids, 8)).numpy().argmax(1) == verbs) for ids, verbs in tests]
                     for name, model in models.items()}
        print(f"step {step}:", ", ".join(f"{name} {np.mean(rates):.1f}% right" for name, rates in right.items()))
        display(plot.curves({"right verbs, %": right}, "phrases between subject and verb"))
