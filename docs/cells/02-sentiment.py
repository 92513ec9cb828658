import numpy as np
import tinyseq as ts
from tinyseq import data, nn, optim, plot

ts.manual_seed(0)
rng = np.random.default_rng(0)
good, bad = "good great funny lovely".split(), "bad awful dull boring".split()
flips, keeps = ["not {} at all", "far from {}", "never {}"], ["{}", "very {}", "always {}"]
words = data.Vocabulary("the film was at all far from not never very always".split() + good + bad)

def review():                                                       # the words, and 1 if it is positive
    positive, flip = rng.integers(2, size=2)
    said = rng.choice(flips if flip else keeps).format(rng.choice(good if positive != flip else bad))
    return f"the film was {said}".split(), positive

embedding, rnn, out = parts = nn.Embedding(len(words), 16), nn.RNN(16, 32), nn.Linear(32, 2)
def read(texts):                                                    # what it says after each word, and after the last
    ids, lengths = data.pad([words.encode(text) for text in texts])
    states, last = rnn(embedding(ids), lengths=lengths)
    return out(states), out(last[0])

optimizer = optim.Adam([p for part in parts for p in part.parameters()], lr=5e-3)
for step in range(301):
    texts, right = zip(*(review() for _ in range(32)))
    loss = ts.functional.cross_entropy(read(texts)[1], np.array(right))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
        shown = [["the", "film", "was", *end.split()] for end in ("bad", "not bad at all", "far from good")]
        said = ts.functional.softmax(read(shown)[0]).detach().numpy()[..., 1]
        display(plot.words(shown, [p[: len(row)] for p, row in zip(said, shown)], "red is negative, blue positive"))
