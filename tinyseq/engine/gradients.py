"""From the outputs back to the leaves: `backward`, `grad`, `value_and_grad`, and gradients of gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence, Set
from operator import attrgetter
from typing import Any, cast

from tinyseq import backends, check
from tinyseq.check import describe, explained
from tinyseq.engine import mistakes
from tinyseq.engine.autograd import in_slots, op, over_slots, wrap
from tinyseq.engine.creation import asarray, like
from tinyseq.engine.graph import Leaf, Node, enable_grad, grad_enabled, name_of
from tinyseq.engine.tensor import Like, Out, Tensor, namespace, namespaces

_swapping = threading.Lock()


@explained
def backward(x: Tensor, grad: Like = None, *, retain_graph: bool = False, create_graph: bool = False) -> None:
    """Add d(x)/d(leaf) to the `.grad` of every leaf that x, a tensor, was computed from.

    `grad` weights x's entries (same shape); it may be left out for a one-element tensor. The graph is freed on the way
    unless `retain_graph`; with `create_graph` the gradients can themselves be differentiated.

    >>> x = ts.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    >>> (x * x).backward(ts.tensor([0.0, 10.0]))                # adds to what is there: x.grad = None begins anew
    >>> x.grad
    tensor([ 2., 44.])
    """
    found = pull_back([x], [grad], wanted=None, create_graph=create_graph, retain_graph=retain_graph)
    leaves = [n for n in found if (t := cast(Leaf, n).tensor()) is not None and t.grad is None]
    first = dict(zip(leaves, _owned(found, leaves), strict=True))
    for leaf, g in (first | found).items():
        tensor = cast(Leaf, leaf).tensor()
        while tensor is not None:  # until no other thread changed .grad while we added
            old = tensor.grad
            new = g if old is None and leaf in first else grown(old, g)
            # Threads may share a leaf: who came first is added to. In one line, where no tracer can raise halfway.
            with _swapping: tensor.grad = now = new if tensor.grad is old else tensor.grad  # noqa: E701
            if now is new:
                break


@explained
def grad(outputs: Tensor | Sequence[Tensor], inputs: Tensor | Sequence[Tensor], grad_outputs: Like = None, *,
         create_graph: bool = False, retain_graph: bool = False, allow_unused: bool = False) -> Any:
    """d(outputs)/d(inputs), weighted by `grad_outputs` and summed over the outputs; `.grad` is left alone.

    Returns a Tensor of its input's shape and dtype, or a list of them for a sequence of inputs. `inputs` may be leaves
    or computed tensors. With `create_graph` the result can be differentiated again. An input that the outputs do not
    depend on is an error, unless `allow_unused`: then its entry is None.

    >>> x = ts.tensor(2.0, requires_grad=True)
    >>> slope = ts.grad(x**3, x, create_graph=True)             # 3 x^2
    >>> slope.item()
    12.0
    >>> ts.grad(slope, x)                                       # 6 x
    tensor(12.)
    """
    if callable(outputs):
        raise TypeError("grad takes the tensor to differentiate; for a function there is value_and_grad(fn)(*args)")
    xs, ys = _several("inputs", inputs), _several("outputs", outputs)
    seeds = [grad_outputs] * len(ys) if grad_outputs is None or isinstance(outputs, Tensor) else list(grad_outputs)
    if len(seeds) != len(ys):
        raise ValueError(f"expected {len(ys)} grad_outputs, got {len(seeds)}")
    for i, x in enumerate(xs):
        if x.node is None:
            raise ValueError(f"input {i}, of shape {x.shape}, does not require a gradient")
    found = pull_back(ys, seeds, wanted={x.node for x in xs}, create_graph=create_graph, retain_graph=retain_graph)
    for i, x in enumerate(xs):
        if x.node not in found and not allow_unused:
            raise ValueError(f"the outputs do not depend on input {i}, of shape {x.shape}: pass allow_unused=True "
                             "for None in its place")
    nodes = [x.node if x.node in found else None for x in xs]
    tensors = iter(_owned(found, [n for n in nodes if n]))
    results = [n and next(tensors) for n in nodes]
    return results[0] if isinstance(inputs, Tensor) else results


def _several(name: str, given: Any) -> list[Tensor]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(x, Tensor) for x in several):
        raise TypeError(f"expected {name} to be a Tensor or a list of them, got {describe(given)}")
    return several


def _owned(found: dict[Node, Any], nodes: Sequence[Node]) -> list[Tensor]:
    """What was `found` at nodes, taken out of there, as Tensors that the user may write to: arrays of one library by
    one call of its backend, which copies those that anyone else holds."""
    arrays = [found[n] for n in nodes]
    for n in {*nodes}:
        del found[n]
    if len({namespaces[type(g)] for g in arrays}) != 1 or type(arrays[0]) is Tensor:
        return [grown(None, g) for g in arrays]
    return list(map(Tensor, backends.of(arrays[0]).own(arrays)))


def grown(old: Tensor | None, g: Any) -> Tensor:
    """A gradient, added to what was there, that the user may write to."""
    # A sum is a new array; the first gradient is copied, as others could hold g, or it could be a broadcast one.
    if not isinstance(g, Tensor):
        return Tensor(namespaces[type(g)].asarray(g if old is None else old._data + g, copy=old is None or None))
    with enable_grad():
        return gradient(g) if old is None else old + g


def value_and_grad(fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., tuple[Any, Any]]:
    """The function `(*args) -> (fn(*args), its gradient with respect to the arguments at argnums)`.

    `fn` returns a one-element Tensor, or a tuple of which the first entry is one. The gradient is a Tensor of its
    argument's shape and dtype, or a list of them where `argnums` is a list or tuple. Nests for higher orders.

    >>> square = lambda x: (x * x).sum()
    >>> value, slope = ts.value_and_grad(square)(ts.tensor([1.0, 3.0]))
    >>> value.item(), slope
    (10.0, tensor([2., 6.]))
    """

    check.function("value_and_grad", fn=fn)
    places = [check.integers("value_and_grad", argnums=i) for i in (
        argnums if isinstance(argnums, (list, tuple)) else [argnums])]

    def wrapped(*args: Any) -> tuple[Any, Any]:
        arguments, outer = list(args), grad_enabled()
        with enable_grad():
            for i in places:
                x = asarray(args[i])
                arguments[i] = identity(x) if x.requires_grad and outer else Tensor(x._data, True)
            value = fn(*arguments)
            loss = value[0] if isinstance(value, tuple) else value
            own = {arguments[i].node for i in places}
            graph = _order([loss.node], {}) if loss.node is not None else []
            # Leaves that fn closes over, or an outer value_and_grad's: then the gradient itself must be differentiable.
            outside = any(type(node) is Leaf and node not in own for node in graph)
            grads = grad(loss, [arguments[i] for i in places], create_graph=outer and outside)
        return value, grads[0] if isinstance(argnums, int) else grads

    return wrapped


def pull_back(outputs: Sequence[Tensor], seeds: Sequence[Like], *, wanted: Set[Node | None] | None, create_graph: bool,
              retain_graph: bool, ends: Mapping[Node, Any] = {}, into: Any = None) -> dict[Node, Any]:
    """Gradients of `outputs`, weighted by `seeds`, at the `wanted` nodes, or at all leaves where that is None.

    They are arrays, or Tensors if `create_graph`, which retains the graph too. The graph ends at the nodes in `ends`,
    whatever they were computed from; with `create_graph` these are given with their Tensors. A dictionary `into` is
    told of each leaf's gradient while the walk goes on, which takes the nodes as its `order` puts them.
    """
    if create_graph and not grad_enabled():
        with enable_grad():
            return pull_back(outputs, seeds, wanted=wanted, create_graph=True, retain_graph=retain_graph, ends=ends)
    grads: dict[Node, Any] = {}
    for y, seed in zip(outputs, seeds, strict=True):
        if y.node is None:
            raise ValueError(f"this tensor of shape {y.shape} was not computed from one that requires a gradient; of "
                             "a gradient, if it was made without create_graph=True")
        g = _seed(y, seed, create_graph)
        grads[y.node] = grads[y.node] + g if y.node in grads else g
    order = _order(list(grads), ends)
    replayed = _replay(order, ends) if create_graph else None
    if into is not None:
        order = into.order(order)
    return _walk(order, grads, wanted, replayed, retain_graph or create_graph, into)


def _walk(order: list[Node], grads: dict[Node, Any], wanted: Set[Node | None] | None,
          replayed: dict[Node, Any] | None, retain_graph: bool, into: Any) -> dict[Node, Any]:
    """From the youngest node to the oldest: each takes its gradient from `grads` and adds to its parents' there.

    Returns what was found at the `wanted` nodes, or at all leaves where that is None, and at the ends of the graph,
    which are not in `order`. `replayed` has the pull-backs to use in place of the nodes' own.
    """
    needed = None if wanted is None else _reaching(order, wanted)
    found: dict[Node, Any] = {} if into is None else into
    own: set[Node] = set()  # nodes whose gradient is a sum that we allocated: more is added in place
    for node in reversed(order):
        g = grads.pop(node, None)
        if g is None:
            continue
        leaf = type(node) is Leaf
        if (leaf if wanted is None else node in wanted):
            found[node] = g
        if leaf:
            continue
        parents = node.parents
        if node.index is not None:  # one output of several: hand its gradient up to the op
            grads.setdefault(parents[0], [None] * len(parents[0].shape))[node.index] = g  # type: ignore
            continue
        pulls = node.pulls if replayed is None else replayed[node]
        if pulls is None:
            raise _freed(node)
        if type(g) is list:
            g = _fill(g, node)
        try:
            jointly = callable(pulls)  # one joint pull-back: then these are gradients
            if jointly:
                pulls = pulls(g, tuple([p is not None and (needed is None or p in needed) for p in parents]))
                if len(pulls) < len(parents) and any(parents[len(pulls) :]):
                    raise TypeError(f"expected a gradient, or None, for each of {len(parents)} arguments, got "
                                    f"{len(pulls)}")
            for parent, pull in zip(parents, pulls, strict=False):
                if parent is None or pull is None or (needed is not None and parent not in needed):
                    continue
                h = pull if jointly else pull(g)
                if h.shape != parent.shape:
                    h = _unbroadcast(h, parent, node)
                if h.dtype is not parent.dtype and h.dtype != parent.dtype:
                    h = h.astype(parent.dtype)
                if parent not in grads:
                    grads[parent] = h
                elif parent in own:
                    grads[parent] += h  # not `old += h`: a 0-d sum is a NumPy scalar, which does not change in place
                else:
                    grads[parent] = grads[parent] + h
                    own.add(parent)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise mistakes.of_pull(node, error) from error
        if not retain_graph:
            node.pulls, node.parents, node.args = None, (), ()
    return found | grads  # what is left are those of the ends


def _freed(node: Node) -> RuntimeError:
    return RuntimeError(f"the graph of {name_of(node)} was freed by an earlier backward: pass retain_graph=True there")


def _seed(y: Tensor, seed: Like, create_graph: bool) -> Any:
    """The gradient to start from at output `y`: of its shape and dtype, an array or a Tensor."""
    if seed is None:
        if y.size != 1:
            raise ValueError(f"an output of shape {y.shape} needs its gradient given (grad, grad_outputs), as it has "
                             "not just one element, got None")
        seed = namespace(y._data).ones(y.shape, dtype=y.dtype)
    g = backends.of(y._data).asarray(seed._data if isinstance(seed, Tensor) else seed, dtype=y.dtype)
    if g.shape != y.shape:
        raise ValueError(f"the gradient of an output of shape {y.shape} must have that shape, got {g.shape}")
    return g if not create_graph else seed.astype(y.dtype) if isinstance(seed, Tensor) else Tensor(g)


def _order(roots: list[Node], ends: Mapping[Node, Any]) -> list[Node]:
    """The nodes that `roots` were computed from, each after its parents, without the `ends` and what is beyond."""
    seen = {None, *(order := [node for node in roots if node not in ends]), *ends}
    for node in order:  # grows as it goes
        for x in node.parents:
            if type(x) is Leaf and x.written > node.serial:  # it is not what the node was computed from
                raise RuntimeError(f"a leaf of shape {x.shape} was written to after its use: run the forward pass anew")
            if x not in seen:
                seen.add(x)
                order.append(x)  # type: ignore[arg-type]
    order.sort(key=attrgetter("serial"))
    return order


def _reaching(order: list[Node], wanted: Set[Node | None]) -> set[Node | None]:
    """The nodes from which a gradient reaches a wanted one."""
    needed = {*wanted}
    for node in order:
        if any(parent in needed for parent in node.parents):
            needed.add(node)
    return needed


def _fill(several: list[Any], node: Node) -> tuple[Any, ...]:
    """Zeros in place of the gradients of outputs that were not used."""
    given = next(g for g in several if g is not None)
    xp = namespace(given._data if isinstance(given, Tensor) else given)
    kind = Tensor if isinstance(given, Tensor) else xp.asarray
    return tuple(kind(xp.zeros(shape, dtype=dtype)) if g is None else g
                 for g, shape, dtype in zip(several, node.shape, node.dtype, strict=True))


def _unbroadcast(g: Any, parent: Node, node: Node) -> Any:
    """Sum a gradient over the axes along which its argument was broadcast."""
    shape = parent.shape
    if g.ndim < len(shape):  # assignment drops leading axes of length 1
        g = g.reshape((1,) * (len(shape) - g.ndim) + g.shape)
    extra = g.ndim - len(shape)
    if any(n not in (1, m) for n, m in zip(shape, g.shape[extra:], strict=True)):
        raise mistakes.of_shape(node, g.shape, shape)
    total = namespace(g).sum(g, axis=tuple(i for i, n in enumerate((None,) * extra + shape) if n != g.shape[i]))
    return total if total.shape == shape else total.reshape(shape)


def _replay(order: list[Node], ends: Mapping[Node, Any]) -> dict[Node, Any]:
    """Run the ops of a graph once more, on Tensors, while gradients are recorded: their pull-backs, made of Tensors.

    The values computed on the way take the original ones' places in the graph, so that derivatives with respect to
    any tensor in it are found. Those of the `ends` are given.
    """
    values: dict[Node, Any] = dict(ends)
    pulls: dict[Node, Any] = {}
    for node in order:
        if type(node) is Leaf:
            values[node] = wrap(node.data, node)
            continue
        if node.index is not None:
            out = values[cast(Node, node.parents[0])][node.index]
        else:
            out, pulls[node] = _run(node, values)
        if type(out) is not tuple:
            out.node = node
        values[node] = out
    return pulls


@op
def identity(x: Tensor) -> Out:
    """A tensor with the same values: a new place in the graph."""
    return x, (lambda g: g,)


@op
def gradient(g: Tensor) -> Out:
    """A copy, under the name by which errors and `repr` call it."""
    return g.astype(g.dtype), (lambda h: h,)


def _run(node: Node, values: Mapping[Node, Any]) -> tuple[Any, Any]:
    """Runs a node's op once more, on the Tensors of its parents.

    Returns its outputs, as new Tensors whose node may be set, and its pull-backs, made of Tensors.
    """
    if node.pulls is None:
        raise _freed(node)
    def fill(constant: Any, parent: Any) -> Any: return constant if parent is None else values[parent]
    args = over_slots(fill, node.parents if node.args is None else node.args, node.parents)
    if node.op.definition is not None:
        return _run_definition(node, args, values)
    try:
        out, pulls = node.op.body(*args, **node.kwargs)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise mistakes.of_replay(node, error) from error
    # A body may return what it was given, which has a node already.
    def fresh(y: Any) -> Any: return Tensor(y._data) if any(y is a for a in args) else y
    return tuple(map(fresh, out)) if type(out) is tuple else fresh(out), pulls


def _run_definition(node: Node, args: list[Any], values: Mapping[Node, Any]) -> tuple[Any, Any]:
    """`_run` for an op that calls a kernel: its composed definition is run in place of its body."""
    first = next((x for x in in_slots(args) if isinstance(x, Tensor)), None)

    def alias(a: Any, parent: Node | None) -> Any:
        if parent is None:
            return like(first, a) if first is not None and type(a) in backends.arrays and a.dtype.kind == "f" else a
        return identity(a)  # gradients stop here: what lies behind an argument is not this op's business

    args = over_slots(alias, args, node.parents)
    out = node.op.definition(*args, **node.kwargs)

    def pull(g: Any, needs: tuple[bool, ...]) -> list[Any]:
        slots = in_slots(args)
        slots += [values[cast(Node, n)] for n in node.parents[len(slots) :]]  # what a recomputed function closes over
        nodes = [x.node if isinstance(x, Tensor) else None for x in slots]
        return gradients_through(out, g, nodes, needs, slots)

    return Tensor(out._data) if isinstance(out, Tensor) else tuple(Tensor(y._data) for y in out), pull


def gradients_through(out: Any, g: Any, nodes: Sequence[Node | None], needs: Sequence[bool],
                      slots: Sequence[Any] | None = None) -> list[Any]:
    """The gradients at `nodes`, by a walk of its own back through a recorded function: what a joint pull-back of that
    function returns. `out` is its output or outputs, `g` their gradients, `nodes` are those of its slots, of which
    `needs` says whose gradients are wanted.

    Where what is in the `slots` is given too, the gradients are Tensors.
    """
    pairs = [(y, h) for y, h in ([(out, g)] if isinstance(out, Tensor) else zip(out, g, strict=True)) if y.node]
    ends = {n: x for n, x in zip(nodes, slots or nodes, strict=True) if n is not None}
    wanted = {n for n, need in zip(nodes, needs, strict=True) if need}
    found: dict[Any, Any] = pull_back([y for y, _ in pairs], [h for _, h in pairs], wanted=wanted,
                                      create_graph=slots is not None, retain_graph=True, ends=ends)
    return [found.get(n) for n in nodes]
