"""What a recomputed function closes over, and what it is given, have the same gradients, of any order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts


@given(st.lists(st.sampled_from(["argument", "closure", "array"]), min_size=3, max_size=3), st.booleans())
def test_gradients_of_any_order_reach_arguments_and_closures_alike(kinds: list[str], computed: bool) -> None:
    """Each of three operands comes as an argument, from the closure, or as an array without a gradient."""
    leaves = [ts.tensor([0.5 + i, -1.0], requires_grad=True) for i in range(3)]
    operands = [leaf * 1.5 if computed else leaf for leaf in leaves]
    operands = [x.detach() if kind == "array" else x for x, kind in zip(operands, kinds, strict=True)]
    places = [i for i, kind in enumerate(kinds) if kind != "closure"]
    wanted = [leaf for leaf, kind in zip(leaves, kinds, strict=True) if kind != "array"]

    def product(*given: ts.Tensor | np.ndarray) -> ts.Tensor:
        a, b, c = (given[places.index(i)] if i in places else x for i, x in enumerate(operands))
        return ts.tanh(ts.asarray(a) * b + ts.square(c)) * ts.asarray(b)

    def orders(y: ts.Tensor) -> list[ts.Tensor]:
        first = ts.grad(ts.sum(y), wanted, create_graph=True, retain_graph=True)
        second = ts.grad(sum((ts.sum(ts.sin(g)) for g in first), ts.zeros(())), wanted, retain_graph=True)
        return [y, *first, *second]

    given = [operands[i].numpy() if kinds[i] == "array" else operands[i] for i in places]
    if wanted:
        for x, expected in zip(orders(ts.recompute(product, *given)), orders(product(*given)), strict=True):
            np.testing.assert_allclose(x.detach().numpy(), expected.detach().numpy(), rtol=1e-5)
