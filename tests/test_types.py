"""What type checkers see: right programs are right to mypy and pyright, and each wrong line is reported where it is."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

ROOT = Path(__file__).parents[1]

SETTING = """
from collections.abc import Callable
import numpy as np
import tinyseq as ts
from tinyseq import functional as F, nn, optim

class Tagger(nn.Module):
    def __init__(self, size: int, *, dropout: float = 0.1) -> None:
        self.rnn = nn.LSTM(size, 8, bidirectional=True)
        self.out = nn.Linear(16, 3)
        self.name = "tagger"

    def forward(self, x: ts.Tensor, *, lengths: list[int] | None = None) -> tuple[ts.Tensor, ts.Tensor]:
        y, (h, c) = self.rnn(x, lengths=lengths)
        return self.out(y), h

class Untyped(nn.Module):
    def forward(self, x):  # type: ignore[no-untyped-def]
        return x

x = ts.zeros((2, 3))
linear, tagger = nn.Linear(3, 4), Tagger(3)
optimizer = optim.AdamW(linear.parameters(), lr=1e-3)
"""

RIGHT = """
y: ts.Tensor = linear(x)
both: tuple[ts.Tensor, ts.Tensor] = tagger(x[None], lengths=[2])
logits, state = tagger(x[None])
Untyped()(1)
f: Callable[[ts.Tensor], ts.Tensor] = nn.Sequential(linear, nn.Tanh())
modules: list[nn.Module] = [linear, tagger, nn.Dropout(0.1), nn.ReLU()]
outputs = [module(x) for module in modules]
s: ts.Tensor = x.sum(axis=1, keepdims=True).tanh().topk(2)[0]
t: ts.Tensor = x.add(1.0).clip(min=0.0).maximum(x).cumulative_sum(axis=1)
shape: tuple[int, ...] = x.reshape(3, 2).permute_dims(1, 0).flatten(0).shape
parts: tuple[ts.Tensor, ...] = x.split(3, axis=1)
version: str = ts.__version__
batches = ts.data.batches([2, 1], 2)
scores: float = ts.metrics.token_error_rate([["a"]], [[["a"]]])
metric = ts.metrics.Accuracy(ignore_index=0).merge(ts.metrics.Accuracy()); metric.update([1], targets=[1])
share: float = metric.compute(); log = ts.logs.Log(ts.logs.Terminal(), lambda step, figures: None); log(1, loss=x)
for _ in (bar := ts.logs.progress(range(3), save=lambda: None)): bar.update(1)
loss: ts.Tensor = F.cross_entropy(linear(x), ts.asarray(np.array([0, 1])))
loss.backward(); optimizer.step(); optimizer.lr = 1e-4
grad: ts.Tensor | None = linear.weight.grad
same: ts.Tensor = nn.functional.relu(ts.functional.tanh(x))
a, b = nn.GRU(3, 5, num_layers=2, bidirectional=True, dropout=0.1)(x[None])
weights: dict[str, ts.Tensor] = tagger.eval().state_dict()
layers = [nn.GELU(approximate="tanh"), nn.LeakyReLU(0.2), nn.SiLU(), nn.GRUCell(3, 4, reset="before")]
model: nn.LanguageModel = nn.LanguageModel(10, 8, 2, 1, activation="silu", norm="rms", bias=False)
pair: nn.Transformer = nn.Transformer(8, 2, norm_first=True, dtype=ts.float64)
drawn: ts.Tensor = ts.random.normal((2, 3), std=0.1)
rows: ts.Tensor = nn.GRU(3, 4).weight_hh_l0 @ nn.GRUCell(3, 4).weight_ih.mT
zeros = [ts.zeros((2, 3), ts.float64), ts.ones(2, dtype=x.dtype), ts.full(3, 0.5, dtype=ts.bool)]
""".strip().splitlines()

WRONG = """
ts.tanhh(x)
ts.cat([x, x])
ts.zeros(2, 3)
x.repeat(2, 1)
ts.random.normal(2, 3)
nn.GRU(3, 4).weight_hh
ts.float33
ts.metrics.token_eror_rate([["a"]], [[["a"]]])
ts.data.btaches([1], 1)
ts.metrics.Accuracy().update([1], target=[1])
ts.metrics.Perplexity().merge(ts.metrics.Accuracy())
ts.logs.CVS("log.csv")
F.relu_(x)
nn.ModuleList([linear])
optim.Adagrad(linear.parameters())
x.view(3, 2)
x.sum(dim=1)
x.topk()
x.cuda()
x.topk("2")
linear(3)
linear(x, x)
linear.wieght
linear(x).cuda()
tagger(x, length=[2])
first, second, third = tagger(x)
number: int = linear(x)
nn.Linear(3, 4, device="cuda")
nn.LSTM(3, "4")
nn.GRU(3)
nn.GRU(3, 4, bidirectonal=True)
nn.RNNCell(3, 4, nonlinearty="relu")
nn.ReLU(inplace=True)
nn.ELU(beta=2.0)
nn.Transformer(8, 2, norm_frist=True)
nn.LanguageModel(10, 8, 2, 1, activatoin="gelu")
Tagger(3, droput=0.1)
optim.SGD(linear.parameters(), lr=0.1, dampening=0.5)
nn.MultiheadAttention(8, 2)(x, x, x, attn_mask=x)
ts.random.normal(size=(2, 3))
linear.load_state_dict([x])
""".strip().splitlines()


def programs(folder: Path) -> tuple[Path, set[int], set[int]]:
    """The package as it is installed, and beside it a program: its file, and which of its lines are right and wrong."""
    copytree(ROOT / "tinyseq", folder / "site" / "tinyseq")
    copytree(ROOT / "backends", folder / "site" / "tinyseq" / "backends")
    before = SETTING.count("\n") + 1
    (folder / "program.py").write_text("\n".join([SETTING, *RIGHT, *WRONG]) + "\n")
    middle = before + len(RIGHT)
    right = {*range(1, middle + 1)}
    return folder / "program.py", right, {*range(middle + 1, middle + len(WRONG) + 1)}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_each_wrong_line_and_no_right_one_is_reported(checker: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: pip install '.[dev]'")
    assert len(RIGHT) >= 20 and len(WRONG) >= 20
    program, right, wrong = programs(tmp_path)
    (tmp_path / "pyrightconfig.json").write_text('{"include": ["program.py"], "typeCheckingMode": "standard"}')
    options = {"mypy": ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "program.py"],
               "pyright": ["--pythonpath", sys.executable]}[checker]
    paths = {"PYTHONPATH": str(tmp_path / "site"), "MYPYPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-m", checker, *options], cwd=tmp_path, env={**os.environ, **paths},
                          capture_output=True, text=True)
    found = {int(line): text for line, text in re.findall(r"program\.py:(\d+):(.*error.*)", done.stdout)}
    text = program.read_text().splitlines()
    assert found, done.stdout + done.stderr
    assert {text[n - 1]: found[n] for n in sorted(right & found.keys())} == {}, "right lines that are reported"
    assert [text[n - 1] for n in sorted(wrong - found.keys())] == [], "wrong lines that are not reported"
