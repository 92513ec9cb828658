"""The engine: tensors, their functions and gradients, random numbers. In the order in which to read it:

- `graph`: nodes, which lead from what was computed back to the leaves; whether anything is recorded (`no_grad`)
- `interop`: what other libraries hand in, and NumPy's functions called on a Tensor
- `methods`: what the standard asks of an array, and the signatures of the functions that are methods
- `tensor`: the Tensor that users hold: an array, its node, and the functions as methods
- `interop`: what other libraries hand in, and NumPy's functions called on a Tensor
- `creation`: Tensors from numbers, lists and arrays
- `mistakes`: what is said to those who write an op, where it is none
- `autograd`: `@op`, which makes a function of Tensors from one of arrays, and records it
- `gradients`: back from the outputs: `backward`, `grad`, and gradients of gradients
- `elementwise`: functions of one entry at a time: arithmetic, powers, comparisons, choice
- `indexing`: entries by their places: slices and integers, taken, set and added to; sorting
- `shapes`: the same entries in another shape or order, joined, cut, repeated
- `reductions`: many entries to one: sums, means, extremes, norms
- `products`: sums of products: `matmul`, and named axes (`einsum`, `tensordot`)
- `searching`: where entries are, which there are, and how often
- `standard`: what else the Array API standard has: running sums, differences, grids, dtypes
- `ops`: all functions under one name
- `streams`: random numbers that are a function of (seed, stream)
- `random`: draws of distributions
- `recompute`: what a function computed is forgotten, and computed again on the way back
- `debug`: where a NaN comes from

From outside: `scope.Scope`, a `with` block per thread; `interrupts.together`, several attributes set in one step;
`check.explained`, a function whose errors name its arguments.

Each file imports from those above it, but for one circle, here and nowhere else: a Tensor's methods are the functions
(`tensor` needs `ops`), which are made by `@op`, which makes Tensors. So `tensor` imports `ops` as a module, whose names
are there when a method is called; and `ops` is imported first, so that it is there as a module when `tensor` looks.
"""

from tinyseq.engine import ops as ops
