"""How does a short text become a few words that say what it is about, not the words that it says most?

Articles of four to six sentences are generated from a grammar. One event is the news, the rest is background: what the
town is known for, what was on elsewhere, which looks much the same. The keywords are the subject, which never stands
there as a word ("scored in the last minute": football), who it was and where. So the most frequent words are the wrong
ones, and those rare elsewhere (TF-IDF, Spärck Jones 1972; the baseline) cannot tell the news from its background.

    h_1 ... h_m = biGRU(x_1 ... x_m),  s_t = GRU(E y_{t-1}, s_{t-1}),
    a_t = softmax_j(s_t . h_j),  c_t = sum_j a_tj h_j,
    p(y_t | y_<t, x) = softmax(W_o tanh(W_c [c_t; s_t]))                (Luong et al. 2015, equations 5 to 7)

The score is F1 over keywords, by article, of articles not seen before: 2 |found and right| / (|found| + |right|). The
picture shows where the decoder looked for each keyword.

    python examples/keywords.py
"""

import argparse
import math
import random
from collections import Counter
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import tinyseq as ts
from tinyseq import data, decode, logs, nn, optim, plot

EVENTS = {                                                      # subject: what happens, {who} and {where}
    "football": ["{who} scored in the last minute in {where}", "the goal of {who} decided the match in {where}"],
    "music": ["{who} sang before a full house in {where}", "{who} gave the first concert in {where}"],
    "election": ["the voters of {where} made {who} their mayor", "{who} won most of the votes in {where}"],
    "science": ["in {where} {who} found a new kind of star", "{who} of the institute in {where} measured the atom"],
    "crime": ["the police of {where} looked for {who}", "{who} left the bank in {where} with the money"],
    "weather": ["the storm over {where} took the roof of {who}", "{who} was lost in the snow near {where}"],
    "business": ["{who} sold the factory in {where}", "the shares of {who} fell after the news from {where}"],
    "cinema": ["{who} shot the new film in {where}", "{who} played the king on the screen in {where}"],
}
NEWS = ["today {event}", "it was announced that {event}", "the news of the day is that {event}", "yesterday {event}"]
BACKGROUND = ["years ago {event}", "some still remember how {event}", "it was said before that {event}",
              "nobody believes that {event}", "the paper once wrote that {event}"]
FILLERS = ["{where} is known for its old bridge", "the neighbours had not expected it", "more will be told on sunday",
           "{who} had no comment", "the people of {where} spoke of nothing else", "there were many questions"]
WHO = ("anna ben carla david elena felix greta hugo ida jonas karin leo maria nils olga paul rosa simon tina ugo vera "
       "willem xenia yusuf zora").split()
WHERE = "athens berlin cairo delhi essen florence geneva havana izmir jakarta kyoto lima madrid nairobi oslo".split()
Article = tuple[list[str], list[str]]                           # its words, and its keywords


def write(rng: random.Random) -> Article:
    """An article and the keywords of its news: subject, who, where."""
    def event() -> tuple[str, str, str, str]:
        subject, who, where = rng.choice(list(EVENTS)), rng.choice(WHO), rng.choice(WHERE)
        return rng.choice(EVENTS[subject]).format(who=who, where=where), subject, who, where

    news, subject, who, where = event()
    sentences = [rng.choice(NEWS).format(event=news)]
    for _ in range(rng.randint(1, 2)):
        old, _, other, elsewhere = event()
        sentences += [rng.choice(BACKGROUND).format(event=old), rng.choice(FILLERS).format(who=other, where=elsewhere)]
    sentences += [rng.choice(FILLERS).format(who=rng.choice(WHO), where=rng.choice(WHERE))]
    rng.shuffle(sentences)
    return [*" . ".join(sentences).split(), "."], [subject, who, where]


def tf_idf(articles: list[Article], known: list[Article]) -> list[list[str]]:
    """The three words of each article with the largest n_w log(N / N_w), N_w of the N known articles having w."""
    having = Counter(word for words, _ in known for word in set(words))
    weigh = lambda words, word: words.count(word) * math.log(len(known) / max(1, having[word]))
    return [sorted(set(words), key=lambda word: (-weigh(words, word), word))[:3] for words, _ in articles]


def f1(found: list[list[str]], right: list[list[str]]) -> float:
    """In percent, the mean over articles."""
    scores = [2 * len({*f} & {*r}) / max(1, len({*f}) + len({*r})) for f, r in zip(found, right)]
    return 100 * sum(scores) / len(scores)


def train(model: nn.EncoderDecoder, known: list[Article], words: data.Vocabulary, steps: int, seed: int) -> None:
    optimizer, rng, bar = optim.Adam(model.parameters()), random.Random(seed), logs.progress(range(steps))
    for step in bar:
        rows = rng.sample(known, 64)
        x, lengths = data.pad([words.encode(article) for article, _ in rows])                   # (batch, words)
        y, _ = data.pad([[words.start, *words.encode(keys), words.end] for _, keys in rows])    # (batch, 5)
        loss = ts.functional.cross_entropy(model(x, lengths, y[:, :-1]), y[:, 1:], ignore_index=words.pad)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = 5e-3 * (1 - step / steps)
        optimizer.step()
        bar.set_postfix_str(f"loss {loss.item():.2f}", refresh=False)


@ts.no_grad()
def summarise(model: nn.EncoderDecoder, articles: list[Article], words: data.Vocabulary) -> list[decode.Hypothesis]:
    model.eval()
    state = model.encode(*data.pad([words.encode(article) for article, _ in articles]))
    return decode.greedy(model.decoder, state, words.start, words.end, max_length=5)


@ts.no_grad()
def draw(model: nn.EncoderDecoder, article: list[str], keywords: list[str], words: data.Vocabulary) -> None:
    """For each keyword the sentences of the article, each word as blue as the decoder looked at it."""
    state, target = model.encode(*data.pad([words.encode(article)])), [words.encode(keywords)]
    weights = decode.score(model.decoder, state, words.start, target, align=True).alignment.numpy()[0]
    stops = [i + 1 for i, word in enumerate(article) if word == "."]
    rows, colours = [], []
    for keyword, looks in zip(keywords, weights):
        for start, stop in zip([0, *stops], stops):
            rows.append([f"{keyword if start == 0 else '':10}", *article[start:stop]])
            colours.append([0.5, *(0.5 + looks[start:stop] / 2)])
    plot.words(rows, colours, "where the decoder looked for each keyword (blue)", "keywords.png")
    print("\nattention: keywords.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="updates (800)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    ts.manual_seed(options.seed)
    rng, width = random.Random(options.seed), 64
    known, test = [write(rng) for _ in range(8000)], [write(rng) for _ in range(500)]
    words = data.Vocabulary(sorted({word for article in known + test for part in article for word in part}))
    attention = nn.DotAttention(2 * width, 2 * width)
    decoder = nn.AttentionDecoder(len(words), width, 2 * width, attention, 2 * width)
    encoder = nn.GRU(width, width, bidirectional=True)
    model = nn.init.recurrent_(nn.EncoderDecoder(nn.Embedding(len(words), width), encoder, decoder))
    train(model, known, words, options.steps, options.seed)

    found, right = summarise(model, test, words), [keys for _, keys in test]
    said = [words.decode(h.tokens) for h in found]
    print(f"F1 of keywords, {len(test)} articles not seen before: {f1(said, right):.1f}% (baseline: "
          f"{f1(tf_idf(test, known), right):.1f}%, the three words of most TF-IDF)")
    for (article, keys), text in list(zip(test, said))[:3]:
        print(f"\n{' '.join(article)}\n  found: {', '.join(text)}   right: {', '.join(keys)}")
    draw(model, *test[0], words)


if __name__ == "__main__":
    main()
