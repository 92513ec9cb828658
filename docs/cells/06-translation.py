import numpy as np
import tinyseq as ts
from tinyseq import data, decode, nn, optim, plot

ts.manual_seed(0)
rng = np.random.default_rng(0)
months = "january february march april may june july august september october november december".split()
letters = data.Vocabulary("abcdefghijklmnopqrstuvwxyz0123456789-, .")

def date():                                                         # a date as people write it, and in ISO 8601
    year, month, day = rng.integers([1950, 1, 1], [2050, 13, 29])
    text = rng.choice(["{d} {m} {y}", "{m} {d}, {y}", "{d}.{n}.{y}"])
    return text.format(d=day, m=months[month - 1], n=month, y=year), f"{year}-{month:02}-{day:02}"

decoder = nn.AttentionDecoder(len(letters), 32, 64, nn.DotAttention(64, 64), 64)
model = nn.EncoderDecoder(nn.Embedding(len(letters), 32), nn.GRU(32, 32, bidirectional=True), decoder)
optimizer = optim.Adam(model.parameters(), lr=6e-3)
for step in range(201):
    sources, targets = zip(*(date() for _ in range(32)))
    x, sizes = data.pad([letters.encode(text) for text in sources])
    y, _ = data.pad([[letters.start, *letters.encode(text), letters.end] for text in targets])
    loss = ts.functional.cross_entropy(model(x, sizes, y[:, :-1]), y[:, 1:], ignore_index=letters.pad)
    optimizer.zero_grad()
    loss.backward()
    optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % 50 == 0:
        found = decode.greedy(decoder, model.encode(x, sizes), letters.start, letters.end, max_length=12)
        said = ["".join(letters.decode(h.tokens)) for h in found]
        right = np.mean(np.array(said) == targets)
        print(f"step {step}: loss {loss.item():.3f}, {right:.0%} right; {sources[0]} = {said[0]}")
i = next(i for i, text in enumerate(sources) if text[0].isalpha())
plot.attention(found[i].alignment[: len(said[i]), : sizes[i]], list(said[i]), list(sources[i]))
