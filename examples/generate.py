"""How does a language model write: one token after the other, each read back before the next is drawn?

p(x_t | x_<t) = softmax(W h_t), x_t is drawn from it, and the keys and values of what stands before it are kept, so that
a token costs one position however long the text is (a KV cache; Vaswani et al. 2017, Holtzman et al. 2020 for top-p).
The model is what examples/charlm.py saved, or any GPT-2 or Llama-like checkpoint as model hubs hold them: a folder with
config.json, weights and tokenizer.json, which the `tokenizers` library reads.

    python examples/generate.py charlm.safetensors --prompt "The statement "
    python examples/generate.py path/to/gpt2 --prompt "Once upon a time" --temperature 0.8 --top-p 0.95
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from _commands import command, pip_install

import tinyseq as ts
from tinyseq import checkpoint, data, decode, models, nn


class Letters:
    """A character model's vocabulary, used as the tokenizers are."""

    def __init__(self, symbols: str) -> None:
        self.vocabulary = data.Vocabulary(symbols)

    def encode(self, text: str) -> list[int]:
        return self.vocabulary.encode(text)

    def decode(self, ids: list[int]) -> str:
        return "".join(self.vocabulary.decode(ids))


class Tokens:
    """The tokenizer.json of a released model."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            sys.exit(f"the tokenizer needs a library: {pip_install('tokenizers')}")
        if not path.exists():
            sys.exit(f"{path} is not there: copy it from where the model is from")
        self.tokenizer = Tokenizer.from_file(str(path))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)


def read(path: Path) -> tuple[nn.LanguageModel, Letters | Tokens, list[int]]:
    """The model, its tokenizer and the tokens that end a text: of a folder, or of a file that charlm.py wrote."""
    if path.is_dir():
        model, tokenizer = models.load(path), Tokens(path / "tokenizer.json")
        if isinstance(model, (models.Bert, models.Headless)):
            sys.exit(f"{path} has no language-model head: it gives hidden states, and no next token")
        end = json.loads((path / "config.json").read_text("utf-8")).get("eos_token_id")
        return model, tokenizer, end if isinstance(end, list) else [end]
    if not path.exists():
        script = Path(__file__).with_name("charlm.py")
        sys.exit(f"{path} is not there; this makes it: {command(sys.executable, script)}")
    saved = checkpoint.load(path)
    with nn.init.skip():
        model = nn.LanguageModel(**saved["config"])
    model.load_state_dict(saved["model"])
    return model.eval(), Letters(saved["letters"]), []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default="charlm.safetensors",
                        help="a folder of a model hub, or a file of charlm.py (charlm.safetensors)")
    parser.add_argument("--prompt", default="The ", help="what the text begins with ('The ')")
    parser.add_argument("--tokens", type=int, default=300, help="how many to write (300)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 takes the most probable token (0.7)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the fewest tokens of this probability (1)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.tokens < 1:
        parser.error(f"--tokens must be at least 1, not {options.tokens}")
    began = time.perf_counter()
    model, tokenizer, ends = read(options.model)
    prompt = tokenizer.encode(options.prompt)
    if not prompt:
        parser.error("--prompt: the model goes on from at least one token")
    tokens = options.tokens
    if isinstance(model.positions, nn.LearnedPositions):    # it has learned no others
        tokens = min(tokens, model.positions.weight.shape[0] + 1 - len(prompt))
        if tokens < 1:
            parser.error(f"--prompt: the model has no position for the last of {len(prompt)} tokens")
    ts.manual_seed(options.seed)
    state, last = model.prompt([prompt])                    # all but the last token, read in one pass
    loaded = time.perf_counter()
    ids, shown = list(prompt), ""
    ends_the_script = signal.signal(signal.SIGINT, signal.default_int_handler)      # writing is ended by an exception
    try:
        for step in decode.stream(model, state, last, -1, tokens, options.temperature, top_p=options.top_p):
            if step.tokens[0] in ends:
                break
            ids.append(int(step.tokens[0]))
            text = tokenizer.decode(ids)                    # a letter may need several tokens: what is whole is shown
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                print(text[len(shown) :], end="", flush=True)
                shown = text
    except KeyboardInterrupt:
        print("\nstopped", end="")
    signal.signal(signal.SIGINT, ends_the_script)
    seconds, written = time.perf_counter() - loaded, len(ids) - len(prompt)
    print(f"\n\nread in {loaded - began:.2f} s, then {written} tokens in {seconds:.2f} s: "
          f"{written / seconds:.0f} tokens a second")


if __name__ == "__main__":
    main()
