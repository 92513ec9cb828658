"""Tokenizers of the `tokenizers` library: what is encoded comes back, from files and checkpoints too."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyseq import checkpoint, data
from tinyseq.data import Tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers")

TEXTS = ["the quick brown fox jumps over the lazy dog", "a new day, a new year", "nothing new under the sun",
         "<s> </s>"]
KINDS = ["bpe", "wordpiece", "unigram"]
LEARNED = {kind: Tokenizer.train(kind, TEXTS * 3, 300 if kind == "bpe" else 60) for kind in KINDS}
special = st.sampled_from(["<s>", "</s>", "<pad>", "<unk>", " a", "new"])


@given(st.text() | st.lists(special | st.text(max_size=3)).map("".join))
def test_bpe_gives_every_text_back(text: str) -> None:
    tokenizer = LEARNED["bpe"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([tokenizer.pad, tokenizer.start, *ids, tokenizer.end, *ids]) == text


@given(st.sampled_from(KINDS), st.lists(special | st.text(max_size=3)).map("".join))
def test_no_text_makes_an_id_that_is_no_text(kind: str, text: str) -> None:
    tokenizer = LEARNED[kind]
    assert (tokenizer.pad, tokenizer.start, tokenizer.end) == (0, 1, 2)
    assert not {0, 1, 2} & {*tokenizer.encode(text)} and max(tokenizer.encode(text), default=0) < len(tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_were_learned_come_back(kind: str) -> None:
    tokenizer = LEARNED[kind]
    for text in ("a new day", "the lazy dog"):
        assert tokenizer.decode(np.array(tokenizer.encode(text))) == text
    assert len(tokenizer) <= (300 if kind == "bpe" else 60)


@given(st.sampled_from(KINDS), st.lists(st.text(max_size=9), max_size=5))
def test_a_batch_is_its_rows(kind: str, texts: list[str]) -> None:
    ids, lengths = LEARNED[kind].batch(texts)
    assert ids.dtype == lengths.dtype == np.int64 and ids.shape == (len(texts), lengths.max(initial=0))
    assert [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)] == [*map(LEARNED[kind].encode, texts)]
    assert all((row[n:] == 0).all() for row, n in zip(ids, lengths, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_comes_back_from_its_file_and_from_a_checkpoint(kind: str, tmp_path: Path) -> None:
    first, other = LEARNED[kind], LEARNED["bpe" if kind != "bpe" else "unigram"]
    first.save(tmp_path / "tokenizer.json")
    checkpoint.save(tmp_path / "run.safetensors", {"tokenizer": first.state_dict()})
    again = Tokenizer(tokenizers.Tokenizer.from_str(other.tokenizer.to_str()))
    again.load_state_dict(checkpoint.load(tmp_path / "run.safetensors")["tokenizer"])
    for tokenizer in (again, Tokenizer.load(tmp_path / "tokenizer.json")):
        assert tokenizer.encode("a new </s> day é") == first.encode("a new </s> day é")
        assert repr(tokenizer) == repr(first) and tokenizer.end == 2
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab() == first.tokenizer.get_vocab()


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_white_space_of_any_kind_comes_back_as_one_space(kind: str) -> None:
    tokenizer = LEARNED[kind]
    for space in ("  ", "\n", "\t", "\r\n", "\u00a0", " \u3000 "):
        text = f"{space}a{space}new{space}day{space}"
        assert tokenizer.encode(text) == tokenizer.encode("a new day") and tokenizer.decode(tokenizer.encode(text)) == (
            "a new day")


def test_bpe_of_the_same_texts_is_the_same_in_every_process() -> None:
    program = f"from tinyseq.data import Tokenizer; print(Tokenizer.train('bpe', {TEXTS * 3!r}, 300).state_dict())"
    found = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
             for _ in range(2)}
    assert len(found) == 1


def test_a_tokenizer_learns_from_a_stream(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS * 3))
    found = Tokenizer.train("bpe", data.lines(tmp_path / "a.txt"), 300)
    assert found.state_dict() == LEARNED["bpe"].state_dict()


def test_released_tokenizers_are_taken_as_they_are(tmp_path: Path) -> None:
    """Which add marks of their own and fill up: a batch is of the text alone."""
    theirs = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[CLS]": 1, "a": 2, "[UNK]": 3}, "[UNK]"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    theirs.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 1)])
    theirs.enable_padding(length=9)
    theirs.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert tokenizer.encode("a b") == [2, 3] and tokenizer.batch(["a", "a b"])[1].tolist() == [1, 2]
    assert (tokenizer.pad, tokenizer.start, tokenizer.end) == (None, None, None) and tokenizer.decode([2, 2]) == "a a"


def test_a_tokenizer_that_cuts_is_taken_without(tmp_path: Path) -> None:
    """As `no_padding`: every text whole, and the library's object stays as the caller had it."""
    theirs = tokenizers.Tokenizer.from_str(LEARNED["bpe"].tokenizer.to_str())
    theirs.enable_truncation(4)
    theirs.enable_padding(length=9)
    theirs.encode_special_tokens = False
    theirs.save(str(tmp_path / "tokenizer.json"))
    before = theirs.to_str()
    for tokenizer in (Tokenizer(theirs), Tokenizer.load(tmp_path / "tokenizer.json")):
        assert tokenizer.encode(TEXTS[0]) == LEARNED["bpe"].encode(TEXTS[0])
        assert tokenizer.batch(TEXTS)[1].tolist() == [len(LEARNED["bpe"].encode(text)) for text in TEXTS]
    assert theirs.to_str() == before and not theirs.encode_special_tokens and len(theirs.encode(TEXTS[0]).ids) == 9


def test_a_batch_is_filled_up_with_the_tokenizers_own_pad() -> None:
    theirs = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "b": 4}, "a"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ids, lengths = Tokenizer(theirs).batch(["a b a", "a"])
    assert ids.tolist() == [[3, 4, 3], [3, 1, 1]] and lengths.tolist() == [3, 1]
    assert Tokenizer(theirs).batch([])[0].shape == (0, 0)


def test_a_save_that_fails_leaves_the_file_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    LEARNED["bpe"].save(path)
    before = path.read_bytes()

    def fails(_: int) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is full"):
        patch.setattr("os.fsync", fails)
        LEARNED["unigram"].save(path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    LEARNED["unigram"].save(path)
    assert Tokenizer.load(path).encode("new") == LEARNED["unigram"].encode("new")


def test_wrong_tokenizers_are_refused(tmp_path: Path) -> None:
    tokenizer, wrong = LEARNED["bpe"], [3]     # type: tuple[Tokenizer, list[Any]]
    (tmp_path / "a.json").write_text("{}")
    calls: list[tuple[Any, Any, str]] = [
        (lambda: Tokenizer.train("bpe", TEXTS, 10), ValueError, "expected an integer 259 <= size, got 10"),
        (lambda: Tokenizer.train("words", TEXTS, 10), ValueError, "expected kind to be one of 'bpe', 'wordpiece'"),
        (lambda: Tokenizer.train("unigram", "text", 10), TypeError, "expected texts to be strings in a list or a str"),
        (lambda: Tokenizer.train("unigram", wrong, 10), TypeError, "expected texts to be strings, got 3"),
        (lambda: Tokenizer.train("wordpiece", [], 10), ValueError, "the texts hold nothing to learn from"),
        (lambda: Tokenizer.load(tmp_path / "a.json"), ValueError, r"Tokenizer.load: .*a.json: expected the JSON of a"),
        (lambda: Tokenizer.load(tmp_path / "b.json"), FileNotFoundError, "b.json"),
        (lambda: Tokenizer(3), TypeError, "Tokenizer: expected tokenizer to be Tokenizer, got 3"),
        (lambda: tokenizer.encode(wrong[0]), TypeError, "Tokenizer.encode: expected text to be str, got 3"),
        (lambda: tokenizer.batch("text"), TypeError, "Tokenizer.batch: expected texts to be strings in a list"),
        (lambda: tokenizer.batch(wrong), TypeError, "Tokenizer.batch: expected texts to be strings, got 3"),
        (lambda: tokenizer.decode([300]), ValueError, "Tokenizer.decode: unknown id 300; the ids are 0 to 299"),
        (lambda: tokenizer.decode([-1]), ValueError, "unknown id -1"),
        (lambda: tokenizer.decode([*wrong, 1.5]), TypeError, "expected an integer id, got 1.5"),
        (lambda: tokenizer.load_state_dict({}), ValueError, "expected what Tokenizer.state_dict gave, got a"),
        (lambda: tokenizer.load_state_dict(tokenizer.state_dict() | {"tokenizer": "{}"}), ValueError, "the JSON of a"),
    ]
    for call, kind, told in calls:
        with pytest.raises(kind, match=told):
            call()
    assert json.loads(tokenizer.tokenizer.to_str())["model"]["type"] == "BPE"


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert importlib.import_module("tinyseq.data.tokenizers") is not None
    with pytest.raises(ImportError, match=r"Tokenizer needs tokenizers; run: pip install 'tinyseq\[tokenizers"):
        Tokenizer.train("bpe", TEXTS, 300)
