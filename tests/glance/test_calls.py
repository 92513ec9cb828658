"""Who calls whom: places of modules, and new arrays apart from views."""

import threading
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import nn
from tinyseq.glance import calls
from tinyseq.glance.calls import Calls, made, owner


class Path(Calls):
    """Writes down where each call is."""

    def __init__(self) -> None:
        super().__init__()
        self.here, self.found = self.outside, []    # type: ignore[var-annotated]

    def call(self, plain: Any, args: Any, kwargs: Any) -> Any:
        above, self.here = self.here, self.place(args[0], self.here)
        self.found.append((self.here.path, self.here.label, self.here.kind))
        try:
            return plain(*args, **kwargs)
        finally:
            self.here = above


def paths(fn: Any) -> list[tuple[str, str, str]]:
    with Path() as path:
        fn()
    return path.found


def test_places_are_named_by_attributes() -> None:
    inner = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(inner, nn.Tanh()), inner)
    assert paths(lambda: model(ts.ones(2))) == [
        ("Sequential", "Sequential", "Sequential"), ("Sequential.0", "0", "Sequential"),
        ("Sequential.0.0", "0", "Linear"), ("Sequential.0.1", "1", "Tanh"), ("Sequential.1", "1", "Linear")]


def test_of_several_names_it_is_the_one_with_the_fewest_steps() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            inner = nn.Tanh()
            self.a = [[inner]]
            self.attention = inner

        def forward(self, x: Any) -> Any:
            return self.attention(x)

    assert paths(lambda: Shared()(ts.ones(2)))[1] == ("Shared.attention", "attention", "Tanh")


def test_modules_that_hang_nowhere_are_named_by_their_class() -> None:
    first, second, third = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    class Closed(nn.Module):
        def forward(self, x: Any) -> Any:
            return third(x)

    model = Closed()
    found = paths(lambda: (first(ts.ones(2)), second(ts.ones(2)), first(ts.ones(2)), model(ts.ones(2))))
    assert [path for path, *_ in found] == ["Linear", "Linear_2", "Linear", "Closed", "Closed.(Linear)"]
    assert found[-1] == ("Closed.(Linear)", "(Linear)", "Linear")


def test_other_threads_calls_and_later_ones_are_not_seen() -> None:
    model, plain = nn.Linear(2, 2), nn.Module.__call__
    with Path() as path:
        assert nn.Module.__call__ is not plain
        thread = threading.Thread(target=lambda: model(ts.ones(2)))
        thread.start()
        thread.join()
        with Path():
            pass
        assert nn.Module.__call__ is not plain      # somebody still looks
    model(ts.ones(2))
    assert path.found == [] and nn.Module.__call__ is plain is calls._plain_call


def test_errors_say_the_path_as_ever() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    told = []
    for watched in (False, True):
        with pytest.raises(ValueError) as raised, Path() if watched else ts.enable_grad():
            model(ts.ones(3))
        told.append(str(raised.value))
    assert told[0] == told[1] and told[0].startswith("0.0: linear(")


def test_views_are_not_new() -> None:
    x = np.zeros((4, 6), np.float32)
    assert owner(x[1:].T.reshape(-1)) is not None and owner(x[1:].mT) is x
    assert made(x.T, [x]) == 0 and made([x[0], x[1]], []) == x.nbytes
    assert made((x + 1, x, x[0] + 1), [x]) == x.nbytes + x[0].nbytes
