"""How does a sequence become one of another length, with no rule which letter belongs to which?

Dates as people write them in 23 languages become ISO 8601, and names of countries, of languages, and of languages in
countries, 葡萄牙语 (巴西), go from Chinese to English and back, all in one model: a first symbol says what is wanted
(Johnson et al. 2017). A decoder writes p(y) = prod_t p(y_t | y_<t, h), and attention looks before each letter at what
matters for it; as h_j has heard both sides, that may stand in the state of a letter beside:

    h = biGRU(x),  s_t = GRU(E y_{t-1}, s_{t-1}),  a_t = softmax_j(s_t . h_j),  c_t = sum_j a_tj h_j,
    p(y_t) = softmax(W_o tanh(W_c [c_t; s_t]))                          (Luong et al. 2015, equations 5 to 7)

With --transformer nothing is recurrent: softmax(Q K^T / sqrt(d)) V in encoder and decoder, of one table of embeddings
(Vaswani et al. 2017, equation 1, section 3.4); the encoder turns q_s and k_t by how far s is from t (Su et al. 2021).
The days that judge were never seen in any form. Languages are learnt alone and in countries where they are not
official, 冰岛语 (秘鲁), and judged where they are. Baseline: the answer to the most similar source. Data: `babel`.

    python examples/translate.py [--transformer]
"""

import argparse
import datetime
import random
import sys
from itertools import product
from _commands import pip_install

import tinyseq as ts
from tinyseq import data, decode, logs, metrics, nn, optim, plot

try:
    from babel import Locale
    from babel.dates import format_date
    from babel.languages import get_official_languages
    from rapidfuzz import distance, process
except ImportError as error:
    sys.exit(f"{error.name} is not installed: {pip_install(error.name)}")

LOCALES = "cs da de el en en_GB es et fi fr hu id it ja ko nl pl pt ru sv tr uk vi zh".split()
TO_ISO, TO_ENGLISH, TO_CHINESE = "⟨iso⟩", "⟨en⟩", "⟨zh⟩"
WANTED = {TO_ISO: "dates to ISO", TO_ENGLISH: "Chinese to English", TO_CHINESE: "English to Chinese"}
BATCH = 16
Pair = tuple[tuple[str, ...], str]                              # what is wanted and the letters, and the translation


def read_pairs(seed: int, count: int) -> tuple[list[Pair], list[Pair]]:
    """So many pairs to learn from, and those that judge: other days, and the official languages of all countries."""
    rng, locales = random.Random(seed), (Locale("en"), Locale("zh"))
    english, chinese = ({**locale.languages, **locale.territories} for locale in locales)
    official = sorted({(code.split("_")[0], country) for country in locales[0].territories if country.isalpha()
                       for code in get_official_languages(country, de_facto=True) if code.split("_")[0] in chinese})
    languages, countries = (sorted(set(keys)) for keys in zip(*official))

    def date(judges: bool) -> Pair:
        day = datetime.date(1950, 1, 1) + datetime.timedelta(rng.randrange(36524))
        text = format_date(day, rng.choice(["medium", "long", "full"]), locale=rng.choice(LOCALES))
        return ((TO_ISO, *text), day.isoformat()) if judges == (day.toordinal() % 12 == 0) else date(judges)

    def both_ways(keys: tuple[str, ...]) -> tuple[Pair, Pair]:
        en, zh = (" (".join(names[key] for key in keys) + ")" * (len(keys) - 1) for names in (english, chinese))
        return ((TO_ENGLISH, *zh), en), ((TO_CHINESE, *en), zh)
    made_up = sorted({*product(languages, countries)} - {*official})
    names = [*zip(languages)], [*zip(countries)], made_up         # each is one key or two
    name = lambda: rng.choice(both_ways(rng.choice(rng.choice(names))))
    known = [date(False) if rng.random() < 0.3 else name() for _ in range(count)]
    return known, [date(True) for _ in range(300)] + [way for pair in official for way in both_ways(pair)]


class RotaryEncoder(nn.TransformerEncoder):
    def forward(self, src: ts.Tensor, **masks: object) -> ts.Tensor:        # src times sqrt(64), as in the decoder
        angles = nn.RotaryPositions(16, base=100).angles(src, range(src.shape[1]))
        turn = lambda q, k, v: (ts.functional.rotate(q, *angles), ts.functional.rotate(k, *angles), v)
        return super().forward(8 * src, between=turn, **masks)


def build_model(letters: int, transformer: bool) -> nn.EncoderDecoder:
    if transformer:
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0, norm_first=True)
        decoder = nn.ConditionalLanguageModel(letters, 64, 4, 2, 256, dropout=0, positions="sinusoidal")
        return nn.EncoderDecoder(decoder.embedding, RotaryEncoder(layer, 1, nn.LayerNorm(64)), decoder)
    encoder = nn.GRU(96, 96, bidirectional=True)
    decoder = nn.AttentionDecoder(letters, 96, 192, nn.DotAttention(192, 192), 192)
    return nn.init.recurrent_(nn.EncoderDecoder(nn.Embedding(letters, 96), encoder, decoder))


def train(model: nn.EncoderDecoder, known: list[Pair], letters: data.Vocabulary, seed: int, peak: float) -> None:
    batches = data.batches([len(source) for source, _ in known], BATCH, seed)
    optimizer = optim.Adam(model.parameters(), betas=(0.9, 0.98))
    for step, rows in enumerate(bar := logs.progress(batches)):                  # each pair once
        x, sizes = data.pad([letters.encode(known[i][0]) for i in rows])                            # (batch, letters)
        y, _ = data.pad([[letters.start, *letters.encode(known[i][1]), letters.end] for i in rows])
        logits = model(x, sizes, y[:, :-1])                             # teacher forcing: all steps at once
        loss = ts.functional.cross_entropy(logits, y[:, 1:], ignore_index=letters.pad)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = peak * min(1, 20 * step / len(batches)) * (1 - step / len(batches))
        optimizer.step()
        bar.set_postfix_str(f"loss {loss.item():.2f}", refresh=False)


@ts.no_grad()
def translate(model: nn.EncoderDecoder, letters: data.Vocabulary, sources: list) -> list[str]:
    found = {}
    for rows in data.batches([len(source) for source in sources], 256):
        state = model.encode(*data.pad([letters.encode(sources[i]) for i in rows]))
        found |= zip(rows, decode.greedy(model.decoder, state, letters.start, letters.end, max_length=50))
    return ["".join(letters.decode(found[i].tokens)) for i in range(len(sources))]


def draw(model: nn.EncoderDecoder, letters: data.Vocabulary, pairs: list[Pair]) -> None:
    """Which letters each letter of the right translation looks at."""
    maps = []
    for source, target in pairs:
        state = model.encode([letters.encode(source)])
        found = decode.score(model.decoder, state, letters.start, [letters.encode(target)], align=True)
        maps.append((found.alignment[0], target, ["→", *source[1:]]))
    plot.attention(*zip(*maps), "translate.png")
    print("attention, source above, translation at the left: translate.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", action="store_true", help="attention alone, nothing recurrent")
    parser.add_argument("--steps", type=int, help="updates (3000; with --transformer 4000)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    ts.manual_seed(options.seed)
    known, test = read_pairs(options.seed, BATCH * (options.steps or (4000 if options.transformer else 3000)))
    letters = data.Vocabulary([*WANTED, *sorted({c for s, t in known + test for c in (*s[1:], *t)})])
    model = build_model(len(letters), options.transformer)
    train(model, known, letters, options.seed, peak=5e-3 if options.transformer else 3e-3)
    answers, shown = {"".join(source): target for source, target in known}, []
    for wanted, name in WANTED.items():
        sources, targets = zip(*[pair for pair in test if pair[0][0] == wanted])
        texts = translate(model.eval(), letters, sources)
        same = [source for source in answers if source.startswith(wanted)]
        near = [answers[process.extractOne("".join(s), same, scorer=distance.Levenshtein.distance)[0]] for s in sources]
        rates = [100 * rate(said, [[target] for target in targets]) for said in (texts, near)
                 for rate in (metrics.sequence_error_rate, metrics.token_error_rate)]
        print(f"{name}, {len(texts)} held out: {100 - rates[0]:.1f}% right, {rates[1]:.1f}% character errors "
              f"(baseline: {100 - rates[2]:.1f}% and {rates[3]:.1f}%, the answer to the most similar source)")
        print(*(f"  {''.join(sources[i][1:])} → {texts[i]}" for i in range(0, len(texts), len(texts) // 4)), sep="\n")
        shown += sorted(zip(sources, targets), key=lambda pair: sum(map(len, pair)))[:: len(texts) // 3][:2]
    draw(model, letters, shown)


if __name__ == "__main__":
    main()
