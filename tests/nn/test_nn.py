"""The room's names: those that PyTorch has too are of the same kind, and all are listed."""

import inspect

import pytest

from tinyseq import nn


def test_all_names_are_listed_once() -> None:
    public = {name for name, made in vars(nn).items() if not name.startswith("_") and not inspect.ismodule(made)}
    assert sorted(nn.__all__) == sorted({*public, "convert", "functional", "init"})


@pytest.mark.reference
def test_what_pytorch_has_too_is_of_its_kind() -> None:
    """A class of layers where PyTorch has one. Arguments by place: tests/test_positions.py."""
    torch = pytest.importorskip("torch")
    shared = [name for name in nn.__all__ if hasattr(torch.nn, name)]
    assert len(shared) > 25
    for name in shared:
        assert inspect.isclass(getattr(nn, name)) == inspect.isclass(getattr(torch.nn, name)), name
