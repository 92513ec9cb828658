import numpy as np
import tinyseq as ts
from tinyseq import data, nn, optim, plot

ts.manual_seed(0)
rng, names = np.random.default_rng(0), "apple orange kiwi peach".split()
fruit = ["i ate the {} today", "the {} is ripe", "she likes eating {}", "the {} fell from the tree"]
firm = ["he works for {} today", "the {} is a great company", "she sold shares of {}", "the {} hired new people"]
words = data.Vocabulary(sorted({*" ".join(fruit + firm + names).split()}))

def batch():                                                        # tags: 0 padding, 1 other, 2 fruit, 3 company
    texts = [(k, rng.choice((fruit, firm)[k]).format(rng.choice(names)).split()) for k in rng.integers(2, size=32)]
    return [text for _, text in texts], data.pad([[2 + k if w in names else 1 for w in text] for k, text in texts])[0]

left = nn.Embedding(len(words), 16), nn.LSTM(16, 16), nn.Linear(16, 4)
both = nn.Embedding(len(words), 16), nn.LSTM(16, 16, bidirectional=True), nn.Linear(32, 4)
def tag(parts, texts):                                              # a score of each tag for each word
    ids, lengths = data.pad([words.encode(text) for text in texts])
    return parts[2](parts[1](parts[0](ids), lengths=lengths)[0])

optimizer = optim.Adam([p for part in left + both for p in part.parameters()], lr=1e-2)
for step in range(151):
    texts, right = batch()
    scores = [tag(left, texts), tag(both, texts)]
    optimizer.zero_grad()
    sum(ts.functional.cross_entropy(score, right, ignore_index=0) for score in scores).backward()
    optimizer.step()
    if step % 50 == 0:
        print("step {}: right {:.0%} from the left, {:.0%} from both sides".format(
            step, *(np.mean((s.detach().numpy().argmax(2) == right)[right > 1]) for s in scores)))
shown = [text.format("apple").split() for text in (*fruit[:2], *firm[:2])]
p = np.concatenate([ts.functional.softmax(tag(parts, shown)).detach().numpy() for parts in (left, both)])
colours = [0.5 + (row[:, 3] - row[:, 2])[: len(text)] / 2 for row, text in zip(p, shown * 2)]
plot.words(shown * 2, colours, "red is a fruit, blue a company; first from the left, then from both sides")
