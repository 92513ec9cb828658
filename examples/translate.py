"""How does a sequence become one of another length, with no rule which letter belongs to which?

Dates as people of twenty languages write them become ISO 8601, and names of countries, of languages, and of languages
in countries, 葡萄牙语 (巴西), go from Chinese to English and back, all in one model: a first symbol says what is wanted
(Johnson et al. 2017). An encoder reads the letters, h_1 ... h_m, a decoder writes p(y) = prod_t p(y_t | y_<t, h), and
attention looks before each letter at those that matter for it:

    s_t = GRU(E y_{t-1}, s_{t-1}),  a_t = softmax_j(s_t . h_j),  c_t = sum_j a_tj h_j,
    p(y_t) = softmax(W_o tanh(W_c [c_t; s_t]))                          (Luong et al. 2015, equations 5 to 7)

With --transformer nothing is recurrent: softmax(Q K^T / sqrt(d)) V in encoder and decoder (Vaswani et al. 2017,
equation 1). The days that judge were never seen in any form, nor were those languages in those countries, though both
alone were; the baseline answers as for the source known that fewest edits make of this one. The data is that of the
`babel` package, the Unicode CLDR.

    .venv/bin/python examples/translate.py
    .venv/bin/python examples/translate.py --transformer
"""

import argparse
import datetime
import math
import random
import sys
from itertools import count

from tqdm import tqdm

import tinyseq as ts
from tinyseq import data, decode, metrics, nn, optim, plot

try:
    from babel import Locale
    from babel.dates import format_date
    from babel.localedata import locale_identifiers
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import extractOne
except ImportError as error:
    sys.exit(f"{error.name} is not installed: {sys.executable} -m pip install {error.name}")

LOCALES = "cs da de el en en_GB es et fi fr hu id it ja ko nl pl pt ru sv tr uk vi zh".split()
TO_ISO, TO_ENGLISH, TO_CHINESE = "⟨iso⟩", "⟨en⟩", "⟨zh⟩"
WANTED = {TO_ISO: "dates to ISO", TO_ENGLISH: "Chinese to English", TO_CHINESE: "English to Chinese"}
Pair = tuple[tuple[str, ...], str]                              # what is wanted and the letters, and the translation


def read_pairs(seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from, and pairs to be judged by: dates of other days, languages of other countries."""
    known, test, dates, rng = [], [], ([], []), random.Random(seed)
    for _ in range(4000):
        day = datetime.date(1950, 1, 1) + datetime.timedelta(rng.randrange(36524))
        text = format_date(day, rng.choice(["medium", "long", "full"]), locale=rng.choice(LOCALES))
        (dates[1] if day.toordinal() % 12 == 0 else dates[0]).append(((TO_ISO, *text), day.isoformat()))
    english, chinese = Locale("en"), Locale("zh")
    for kind in ("languages", "territories"):
        there, here = getattr(english, kind), getattr(chinese, kind)
        known += [(there[key], here[key]) for key in there if key in here]
    spoken = [locale for locale in map(Locale.parse, sorted(locale_identifiers())) if locale.territory]
    for name in dict.fromkeys((locale.get_display_name("en"), locale.get_display_name("zh")) for locale in spoken):
        if all(name):
            (test if rng.random() < 0.15 else known).append(name)
    both = lambda names: [pair for en, zh in names for pair in (((TO_ENGLISH, *zh), en), ((TO_CHINESE, *en), zh))]
    return dates[0] + 2 * both(known), dates[1] + both(test)


def build_model(letters: int, transformer: bool, width: int = 96) -> nn.EncoderDecoder:
    if transformer:
        embedding = nn.Sequential(nn.Embedding(letters, width), nn.SinusoidalPositions(width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, norm_first=True)
        decoder = nn.ConditionalLanguageModel(letters, width, 4, 2, 2 * width, positions="sinusoidal")
        return nn.EncoderDecoder(embedding, nn.TransformerEncoder(layer, 2, nn.LayerNorm(width)), decoder)
    attention = nn.DotAttention(2 * width, 2 * width)
    decoder = nn.AttentionDecoder(letters, width, 2 * width, attention, 2 * width, dropout=0.3)
    encoder = nn.GRU(width, width, bidirectional=True)
    return nn.init.recurrent_(nn.EncoderDecoder(nn.Embedding(letters, width), encoder, decoder))


def train(model: nn.EncoderDecoder, known: list[Pair], letters: data.Vocabulary, steps: int, seed: int) -> None:
    sources = [letters.encode(source) for source, _ in known]
    targets = [[letters.start, *letters.encode(target), letters.end] for _, target in known]
    lengths, optimizer = [(len(s), len(t)) for s, t in zip(sources, targets)], optim.Adam(model.parameters())
    endless = (rows for epoch in count() for rows in data.batches(lengths, 64, seed=(seed, epoch)))
    with tqdm(total=steps) as bar:
        for step, rows in zip(range(steps), endless):
            x, sizes = data.pad([sources[i] for i in rows])             # (batch, letters), (batch,)
            y, _ = data.pad([targets[i] for i in rows])                 # (batch, start + letters + end)
            logits = model(x, sizes, y[:, :-1])                         # teacher forcing: all steps at once
            loss = ts.functional.cross_entropy(logits, y[:, 1:], ignore_index=letters.pad)
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.lr = 3e-3 * min(1, 20 * step / steps) * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.step()
            bar.set_postfix_str(f"loss {loss.item():.2f}", refresh=False)
            bar.update()


@ts.no_grad()
def translate(model: nn.EncoderDecoder, letters: data.Vocabulary, sources: list) -> list[decode.Hypothesis]:
    model.eval()
    found = {}
    for rows in data.batches([len(source) for source in sources], 256):
        state = model.encode(*data.pad([letters.encode(sources[i]) for i in rows]))
        found |= zip(rows, decode.greedy(model.decoder, state, letters.start, letters.end, max_length=50))
    return [found[i] for i in range(len(sources))]


def draw(found: list[tuple[tuple[str, ...], decode.Hypothesis, str]]) -> None:
    """Which letters each letter looked at, of translations whose letters matplotlib's font has (few have Chinese)."""
    from matplotlib.font_manager import findfont, get_font

    glyphs = get_font(findfont("sans")).get_charmap()
    shown = [(source, h, text) for source, h, text in found if {*map(ord, "".join(source[1:]) + text)} <= glyphs.keys()]
    if shown:
        weights = [h.alignment[: len(text), : len(s)] for s, h, text in shown]
        plot.attention(weights, [list(text) for *_, text in shown], [["→", *s[1:]] for s, *_ in shown], "translate.png")
        print("attention, source above, translation at the left: translate.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", action="store_true", help="attention alone, nothing recurrent")
    parser.add_argument("--steps", type=int, default=2000, help="updates (2000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ts.manual_seed(options.seed)
    known, test = read_pairs(options.seed)
    letters = data.Vocabulary([*WANTED, *sorted({c for s, t in known + test for c in (*s[1:], *t)})])
    model = build_model(len(letters), options.transformer)
    train(model, known, letters, options.steps, options.seed)

    answers, shown = {"".join(source): target for source, target in known}, []
    for wanted, name in WANTED.items():
        sources, targets = zip(*[pair for pair in test if pair[0][0] == wanted])
        found = translate(model, letters, sources)
        texts = ["".join(letters.decode(h.tokens)) for h in found]
        alike = [source for source in answers if source.startswith(wanted)]
        nearest = [answers[extractOne("".join(s), alike, scorer=Levenshtein.distance)[0]] for s in sources]
        rates = [100 * rate(said, [[target] for target in targets]) for said in (texts, nearest)
                 for rate in (metrics.sequence_error_rate, metrics.token_error_rate)]
        print(f"{name}, {len(texts)} held out: {100 - rates[0]:.1f}% right, {rates[1]:.1f}% character errors "
              f"(baseline: {100 - rates[2]:.1f}% and {rates[3]:.1f}%, the answer to the most similar source)")
        shown += [pair for pair in zip(sources, found, texts) if pair[2]][:: len(texts) // 4]
    print(*(f"  {''.join(source[1:])} → {text}" for source, _, text in shown), sep="\n")
    draw(shown)


if __name__ == "__main__":
    main()
