"""The engine: tensors, their functions and gradients, random numbers.

One circle is here, and nowhere else: a Tensor's methods call the functions (`ops`), which are made of `@op`, which
makes Tensors. It closes because `ops` is imported first, and what needs it within the circle imports the module, not
its names.
"""

from tinyseq.engine import ops as ops
