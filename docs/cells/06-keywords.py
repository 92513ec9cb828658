import numpy as np
import tinyseq as ts
from tinyseq import data, decode, nn, optim, plot

ts.manual_seed(0)
rng = np.random.default_rng(0)
news = {"football": ["{} scored in the last minute", "the goal of {} decided the match"],
        "music": ["{} sang before a full house", "{} gave the first concert"],
        "weather": ["the storm took the roof of {}", "{} was lost in the snow"]}
people, others = "anna ben carla david elena".split(), ["{} had no comment", "they spoke of {}", "{} was born here"]
words = data.Vocabulary(sorted({*" ".join([*news, *people, *others, *sum(news.values(), [])]).split()}))

def article():                                                      # three sentences; subject, and who is in the news
    subject, who = rng.choice(list(news)), rng.choice(people)
    parts = [rng.choice(news[subject]).format(who), *(rng.choice(others).format(rng.choice(people)) for _ in range(2))]
    return " ".join(rng.permutation(parts)).split(), [str(subject), str(who)]

decoder = nn.AttentionDecoder(len(words), 32, 64, nn.DotAttention(64, 64), 64)
model = nn.EncoderDecoder(nn.Embedding(len(words), 32), nn.GRU(32, 32, bidirectional=True), decoder)
optimizer = optim.Adam(model.parameters(), lr=1e-2)
for step in range(201):
    articles, keys = zip(*(article() for _ in range(32)))
    x, sizes = data.pad([words.encode(text) for text in articles])
    y = np.array([[words.start, *words.encode(key), words.end] for key in keys])
    loss = ts.functional.cross_entropy(model(x, sizes, y[:, :-1]), y[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        found = decode.greedy(decoder, model.encode(x, sizes), words.start, words.end, max_length=4)
        right = np.mean([words.decode(h.tokens) == key for h, key in zip(found, keys)])
        print(f"step {step}: loss {loss.item():.3f}, {right:.0%} right")
plot.attention(found[0].alignment[:2, : sizes[0]], words.decode(found[0].tokens), articles[0])
