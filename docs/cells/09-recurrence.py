import numpy as np
import tinyseq as ts
from tinyseq import nn, optim, plot

WIDTH, ASKED = 16, 12
rng = np.random.default_rng(0)

def carry():                                                        # all that is left of the past is the last state
    rnn, out = nn.GRU(4, WIDTH), nn.Linear(WIDTH, ASKED * 4)
    return (rnn, out), lambda x: out(rnn(x)[1][0]).reshape((-1, ASKED, 4))

def look():                                                         # twelve queries look at all positions
    embed, out = nn.Sequential(nn.Linear(4, WIDTH), nn.LearnedPositions(20, WIDTH)), nn.Linear(WIDTH, 4)
    queries = nn.Linear(WIDTH, ASKED)                               # its scores are products of x and a query each
    return (embed, out, queries), lambda x: out(ts.functional.softmax(queries(embed(x)).mT) @ embed(x))

wrong = {}
for name, kind in {"GRU": carry, "attention": look}.items():
    ts.manual_seed(0)
    parts, model = kind()
    optimizer = optim.Adam([p for part in parts for p in part.parameters()], lr=1e-2)
    for step in range(1, 401):                                      # what came in the last 12 of 20 steps?
        ids = rng.integers(4, size=(64, 20))
        scores = model(ts.one_hot(ids, 4))
        loss = ts.functional.cross_entropy(scores, ids[:, : -ASKED - 1 : -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            wrong[name] = 100 * np.mean(scores.detach().numpy().argmax(2) != ids[:, : -ASKED - 1 : -1], 0)
            print(f"{name}, update {step}: loss {loss.item():.2f}, {wrong[name].mean():.1f}% wrong")
            display(plot.curves({"wrong, %": wrong}, "steps back"))
