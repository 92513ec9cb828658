"""The room's names: what can be given by place stands where PyTorch has it."""

import inspect
import typing

import pytest

from tinyseq import nn
from tinyseq.nn import init


@pytest.mark.reference
def test_constructors_and_inits_take_arguments_in_torchs_order() -> None:
    """What can be given by place stands where PyTorch has it; what PyTorch has not there goes by name alone."""
    torch = pytest.importorskip("torch")
    ours = {"low": "a", "high": "b", "value": "val"}  # other names for the same
    walked = set()
    for here, there in ((nn, torch.nn), (init, torch.nn.init)):
        for name, made in vars(here).items():
            theirs = getattr(there, name, None)
            if not getattr(made, "__module__", "").startswith("tinyseq.nn") or not callable(theirs) or name == "Module":
                continue
            known = theirs.__init__ if inspect.isclass(theirs) else theirs
            written = typing.get_overloads(known) if inspect.isfunction(known) else []
            order = [p for p in inspect.signature(written[0] if written else theirs).parameters if p != "self"]
            places = [ours.get(p.name, p.name) for p in inspect.signature(made).parameters.values()
                      if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert places == order[: len(places)], name
            walked.add(name)
    assert walked >= {"Linear", "RNN", "GRUCell", "LeakyReLU", "RMSNorm", "MultiheadAttention", "Transformer",
                      "kaiming_uniform_", "uniform_"} and len(walked) > 35
