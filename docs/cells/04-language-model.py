import numpy as np
import tinyseq as ts
from tinyseq import data, nn, optim, plot

ts.manual_seed(0)
rng = np.random.default_rng(0)
text = " ".join(" ".join((getattr(ts, name).__doc__ or "").split()) for name in sorted(ts.__all__))[:30000]
letters = data.Vocabulary(sorted(set(text)))
ids, kinds = np.array(letters.encode(text)), len(letters)
embedding, lstm, out = parts = nn.Embedding(kinds, 16), nn.LSTM(16, 64), nn.Linear(64, kinds)

def write(count, state=None):                                       # "T", and letter by letter what may follow
    said = letters.encode("T")
    for _ in range(count):
        states, state = lstm(embedding([said[-1:]]), state)         # the state goes on
        p = ts.functional.softmax(2 * out(states[0, 0])).detach().numpy()
        said.append(int(np.searchsorted(np.cumsum(p), rng.random() * p.sum())))
    return "".join(letters.decode(said))

perplexities = []
optimizer = optim.Adam([p for part in parts for p in part.parameters()], lr=1e-2)
for step in range(401):
    window = ids[rng.integers(len(ids) - 33, size=32)[:, None] + np.arange(33)]
    loss = ts.functional.cross_entropy(out(lstm(embedding(window[:, :-1]))[0]), window[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    perplexities.append(np.exp(loss.item()))
    if step % 100 == 0:
        print(f"step {step}: perplexity {np.mean(perplexities[-50:]):.2f}  {write(60)}")
        display(plot.curves({"perplexity": perplexities}, "update"))
