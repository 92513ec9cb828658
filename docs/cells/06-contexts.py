import numpy as np
import tinyseq as ts
from tinyseq import data, nn, optim, plot

rng = np.random.default_rng(0)
letters = data.Vocabulary("abcdefgh")

def batch(length):                                                  # a word, to be spelt backwards
    ids = rng.integers(letters.encode("a")[0], len(letters), (64, length))
    return ids, np.concatenate([np.full((64, 1), letters.start), ids[:, ::-1]], 1)

lengths, errors = range(2, 13), {}
for name, context in {"one vector": nn.FixedContext(48, "both"), "attention": nn.DotAttention(48, 48)}.items():
    ts.manual_seed(0)
    embedding, encoder = nn.Embedding(len(letters), 24), nn.GRU(24, 24, bidirectional=True)
    decoder = nn.AttentionDecoder(len(letters), 24, 48, context, 48)
    model = nn.EncoderDecoder(embedding, encoder, decoder)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    read = lambda x, y: model(x, np.full(len(x), x.shape[1]), y[:, :-1])
    for step in range(1, 201):
        x, y = batch(rng.choice(lengths))
        loss = ts.functional.cross_entropy(read(x, y), y[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            tests = [batch(length) for length in lengths]
            wrong = [100 * np.mean(read(x, y).detach().numpy().argmax(2) != y[:, 1:]) for x, y in tests]
            errors[name] = lengths, wrong
            print(f"{name}, update {step}: {wrong[-1]:.0f}% of the letters wrong in words of {lengths[-1]}")
            display(plot.curves({"wrong letters, %": errors}, "letters in the word"))
