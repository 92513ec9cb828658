"""BLEU and chrF against sacrebleu's corpus scores, its command line, and a BLEU by hand."""

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyseq.metrics import BLEU, CHRF

sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (pip install 'tinyseq[bleu]')")

texts = st.lists(st.sampled_from("The the cat sat on a mat , . 猫 É".split()), max_size=9).map(" ".join) | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
items = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=6)
OPTIONS: Any = st.one_of(
    st.tuples(st.just(BLEU), st.fixed_dictionaries({}, optional={
        "tokenize": st.sampled_from(["13a", "intl", "char", "zh", "none"]), "lowercase": st.booleans(),
        "smooth_method": st.sampled_from(["exp", "floor", "add-k", "none"]), "max_ngram_order": st.integers(1, 5)})),
    st.tuples(st.just(CHRF), st.fixed_dictionaries({}, optional={
        "char_order": st.integers(1, 6), "word_order": st.integers(0, 2), "beta": st.integers(1, 3),
        "lowercase": st.booleans()})))


@given(items, OPTIONS)
def test_it_is_sacrebleus_corpus_score_and_signature(pairs: list[tuple[str, list[str]]], chosen: Any) -> None:
    kind, options = chosen
    metric, theirs = kind(**options), getattr(sacrebleu, kind.__name__)(**options)
    for hypothesis, right in pairs:
        metric.update([hypothesis], [right])
    most = max(len(right) for _, right in pairs)
    streams = [[right[i] if i < len(right) else None for _, right in pairs] for i in range(most)]
    expected = theirs.corpus_score([h for h, _ in pairs], streams)
    assert metric.compute() == expected.score
    assert metric.signature() == str(theirs.get_signature())
    assert repr(metric) == f"{kind.__name__} {expected.score:.4g} {theirs.get_signature()}"


SAID = ["The cat sat on the mat.", "A dog, too?", "It is raining."]
FIRST, SECOND = ["The cat sat on a mat.", "A dog too!", "It rains."], ["A cat sat on the mat.", "Dogs, too?", "Rain."]


@pytest.mark.parametrize(("metric", "name", "flags"), [
    (BLEU(), "bleu", []), (BLEU(tokenize="intl", lowercase=True), "bleu", ["-tok", "intl", "-lc"]),
    (CHRF(), "chrf", []), (CHRF(word_order=2), "chrf", ["--chrf-word-order", "2"])])
def test_it_is_what_the_command_line_prints(metric: Any, name: str, flags: list[str], tmp_path: Path) -> None:
    metric.reset()
    for i in range(3):
        metric.update(SAID[i:i + 1], [[FIRST[i], SECOND[i]]])
    for path, lines in (("said", SAID), ("first", FIRST), ("second", SECOND)):
        (tmp_path / path).write_text("\n".join(lines) + "\n", "utf-8")
    command = [sys.executable, "-m", "sacrebleu", "first", "second", "-i", "said", "-m", name, *flags, "-w", "10"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    said = json.loads(done.stdout)
    assert said["score"] == round(metric.compute(), 10) > 10 and said["signature"] == metric.signature()


def test_bleu_is_its_formula() -> None:
    """Papineni et al. 2002: with clipped counts and the length of the nearest reference."""
    texts = [("a b c d e f", ["a b c d e g h", "f a b c"]), ("a b b b c d", ["a b c d"])]
    pairs = [(said.split(), [ref.split() for ref in refs]) for said, refs in texts]
    right, total = Counter[int](), Counter[int]()
    for said, refs in pairs:
        for n in range(1, 5):
            grams = [Counter(tuple(row[i:i + n]) for i in range(len(row) - n + 1)) for row in (said, *refs)]
            right[n] += sum(min(k, max(ref[g] for ref in grams[1:])) for g, k in grams[0].items())
            total[n] += sum(grams[0].values())
    lengths = sum(len(said) for said, _ in pairs), sum(
        min((abs(len(ref) - len(said)), len(ref)) for ref in refs)[1] for said, refs in pairs)
    penalty = min(1, math.exp(1 - lengths[1] / lengths[0]))
    expected = 100 * penalty * math.exp(sum(math.log(right[n] / total[n]) for n in range(1, 5)) / 4)
    metric = BLEU(tokenize="none")
    metric.update(*zip(*texts, strict=True))
    assert metric.compute() == pytest.approx(expected, rel=1e-12)


def test_wrong_calls_are_told() -> None:
    for metric in (BLEU(), CHRF()):
        name = type(metric).__name__
        for said, right, error, message in (
                (["a"], ["a"], TypeError, "references of item 0 as a list of texts, got 'a'"),
                (["a", "b"], [["a"]], ValueError, "2 hypotheses and 1 lists"),
                (["a"], [[]], ValueError, "item 0 has no reference"),
                ("a", [["a"]], TypeError, "a list of hypotheses, got 'a'"),
                ([1], [["a"]], TypeError, "got 1 in item 0"),
                (["a"], [[None]], TypeError, "got None in item 0"), (["a"], None, TypeError, "got None")):
            with pytest.raises(error, match=rf"^{name}.update\(.*{message}"):
                metric.update(said, right)      # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"^{name}.signature: nothing is counted"):
            metric.signature()
    with pytest.raises(ValueError, match=r"^BLEU: expected tokenize to be one that sacrebleu has.*13a"):
        BLEU(tokenize="thirteen")
    with pytest.raises(ValueError, match="lowercase"):
        CHRF(lowercase=3)       # type: ignore[arg-type]


def test_others_options_are_no_part_of_it() -> None:
    one, other = BLEU(), BLEU(lowercase=True)
    with pytest.raises(ValueError, match=r"lowercase=False.*got a BLEU\(.*lowercase=True.*count different things"):
        one.merge(other)
    with pytest.raises(ValueError, match="lowercase=True"):
        one.load_state_dict(other.state_dict())
