"""g2p_en's weights in tinyseq's layers: its states, its logits and its pronunciations, word for word."""

import importlib.util
import io
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyseq import data

SCRIPT = Path(__file__).parent.parent / "examples" / "pretrained_g2p.py"
REFERENCE = Path(__file__).parent / "data" / "g2p_en" / "reference.npz"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("pretrained_g2p", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # where its neighbours are
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def package(script: Any) -> Any:
    """(weights, source) of the released package."""
    try:
        assert distribution("g2p_en").version == "2.1.0"
    except PackageNotFoundError:
        pytest.skip("g2p_en is not installed (pip install --no-deps g2p_en==2.1.0)")
    return script.read_package()


def invented(hidden: int = 5, width: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    """Random weights under the package's names."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "enc_emb": (29, width), "dec_emb": (9, width), "fc_w": (9, hidden), "fc_b": (9,)}
    for part in ("enc", "dec"):
        shapes |= {f"{part}_w_ih": (3 * hidden, width), f"{part}_w_hh": (3 * hidden, hidden),
                   f"{part}_b_ih": (3 * hidden,), f"{part}_b_hh": (3 * hidden,)}
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def by_hand(weights: Any, word: str) -> list[int]:
    """Greedy decoding by the equations of the GRU, one word alone."""

    def cell(part: str, x: Any, h: Any) -> Any:
        a = weights[f"{part}_w_ih"] @ x + weights[f"{part}_b_ih"]
        b = weights[f"{part}_w_hh"] @ h + weights[f"{part}_b_hh"]
        (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
        r, z = 1 / (1 + np.exp(-(ar + br))), 1 / (1 + np.exp(-(az + bz)))
        return (1 - z) * np.tanh(an + r * bn) + z * h

    h, spoken = np.zeros(weights["enc_w_hh"].shape[1]), [2]
    for letter in [*(ord(c) - ord("a") + 3 if "a" <= c <= "z" else 1 for c in word), 2]:
        h = cell("enc", weights["enc_emb"][letter], h)
    while len(spoken) <= 20:
        h = cell("dec", weights["dec_emb"][spoken[-1]], h)
        spoken.append(int((weights["fc_w"] @ h + weights["fc_b"]).argmax()))
        if spoken[-1] == 3:
            return spoken[1:-1]
    return spoken[1:]


def test_weights_from_a_wheel_run_by_the_gru_s_equations(script: Any, tmp_path: Path) -> None:
    weights, file = invented(), io.BytesIO()
    np.savez(file, **weights)  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        wheel.writestr("g2p_en/checkpoint20.npz", file.getvalue())
        wheel.writestr("g2p_en/g2p.py", "# its source")
    read, source = script.read_package(str(tmp_path / "some.whl"))
    assert source == "# its source" and read.keys() == weights.keys()
    words = [*script.some_words(40), "a", "it's", "é"]
    found = script.pronounce(script.build_model(read), words, batch=16)
    assert found == [by_hand(weights, word) for word in words]
    assert len({tuple(ids) for ids in found}) > 5 and {len(ids) < 20 for ids in found} == {True, False}


@pytest.mark.released
def test_20_words_have_the_package_s_states_logits_and_phonemes(script: Any, package: Any) -> None:
    with np.load(REFERENCE) as file:
        reference = dict(file)
    words, model = [str(word) for word in reference["words"]], script.build_model(package[0])
    ids = script.pronounce(model, words)
    symbols = script.original(package[1], package[0]).phonemes
    assert [" ".join(symbols[i] for i in row) for row in ids] == reference["phonemes"].tolist()

    read = [[*(script.LETTERS.get(letter, script.UNKNOWN) for letter in word), script.STOP] for word in words]
    letters, lengths = data.pad(read)
    state = model.encode(letters, lengths)
    np.testing.assert_allclose(state.hidden.detach().numpy(), reference["states"], atol=1e-5)
    given, steps = data.pad([[script.START, *row][:20] for row in ids])
    assert steps.tolist() == reference["steps"].tolist()
    logits = model.decoder(given, state).detach().numpy()[np.arange(given.shape[1]) < steps[:, None]]
    np.testing.assert_allclose(logits, reference["logits"], atol=1e-4)


@pytest.mark.released
def test_1000_words_as_the_package_says_them(script: Any, package: Any) -> None:
    weights, source = package
    theirs, words = script.original(source, weights), script.some_words(1000)
    spoken = script.pronounce(script.build_model(weights), words)
    assert [[theirs.idx2p[i] for i in ids] for ids in spoken] == [theirs.predict(word) for word in words]


@pytest.mark.released
def test_the_script_prints_both_and_says_what_is_missing(package: Any, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--count", "20", "--words", "Ghoti knight"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "22 of 22 words alike" in done.stdout and "words a second: tinyseq" in done.stdout
    assert "\nknight           N AY1 T  " in done.stdout and "differs" not in done.stdout
    done = subprocess.run([sys.executable, str(SCRIPT), "--wheel", "none.whl"], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 2 and "pip download g2p_en==2.1.0 --no-deps" in done.stderr
