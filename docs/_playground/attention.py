"""What the page of the playground asks: how a word is pronounced, and which letters each phoneme looked at.

The model, its letters and its search are those of examples/pronounce.py, its weights what that script learnt.
"""

import json

import numpy as np
from weights import read  # before the script
from pronounce import LETTERS, PHONEMES, build_model, pronounce

model = build_model(96, 64, 0.0)
model.load_state_dict(read("pronounce.safetensors"))


def watch(text: str, language: str = "en") -> str:
    """Of a word: {"text", "maps"}, as JSON; a map has a title, names of its rows and columns, and numbers 0 to 1."""
    word = "".join(letter for letter in text.lower() if letter in LETTERS.symbols)[:24]
    if not word:
        return json.dumps({"text": "", "maps": []})
    found = pronounce(model, [word])[word]
    sounds = PHONEMES.decode(found.tokens)
    weights = found.alignment[np.array(found.tokens) > PHONEMES.end, : len(word)]
    title = "注意力" if language == "zh" else "attention"
    return json.dumps({"text": " ".join(sounds), "maps": [
        {"title": title, "rows": sounds, "columns": list(word), "values": weights.astype(float).round(3).tolist()}]})
