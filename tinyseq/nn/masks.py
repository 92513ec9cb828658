"""Masks, lengths, and refusals: what layers of any kind ask of what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinyseq import check
from tinyseq.engine import ops
from tinyseq.engine.creation import on_host
from tinyseq.engine.tensor import Like, Tensor, namespace
from tinyseq.functional.arguments import checked_lengths
from tinyseq.nn.module import Computes, Module, P, R

_OURS = "here a mask is boolean and True takes part: "
CONVERSIONS = {
    **dict.fromkeys(("attn_mask", "src_mask", "tgt_mask"), _OURS + "mask=~theirs[None] of one (T, S), or causal=True"),
    **dict.fromkeys(("key_padding_mask", "src_key_padding_mask", "tgt_key_padding_mask"),
                    _OURS + "mask=~theirs of one (B, S), or lengths (B,)"),
    "memory_key_padding_mask": _OURS + "memory_mask=~theirs of one (B, S), or memory_lengths (B,)",
    **dict.fromkeys(("is_causal", "src_is_causal", "tgt_is_causal"), "pass causal=True"),
    "memory_is_causal": "pass memory_mask=np.tri(T, S, dtype=bool)[None]",
    "average_attn_weights": "the weights come by head: weights.mean(axis=1) is their average",
    "batch_first": "tinyseq has one layout, (batch, time, features): swap the two first axes of what goes in and comes "
                   "out, x.permute_dims(1, 0, 2); batch_first stays True",
    "device": "leave it out, and move the module, .to('cupy')",
    **dict.fromkeys(("add_bias_kv", "add_zero_attn"), "forward's `between` puts keys and values (B, heads, n, D) in "
                    "front: lambda q, k, v: (q, ts.concat([k0, k], 2), ts.concat([v0, v], 2))"),
}


class Attending(Module):
    """A module with masks: boolean, True takes part. PyTorch's arguments for them are refused with the conversion."""

    conversions: ClassVar = CONVERSIONS
    alone = False

    def __call__(self: Computes[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name in (conversions := type(self).conversions):  # type: ignore[attr-defined]
                raise TypeError(f"{type(self).__name__}: {name}= is PyTorch's; {conversions[name]}")
        return Module.__call__(self, *args, **kwargs)


def refuse(module: Module, **given: Any) -> None:
    """What PyTorch's constructors take and ours do not, with the conversion: what is `given`, unless it is false."""
    for name, value in given.items():
        if value:
            raise ValueError(f"{type(module).__name__}: {name}= is PyTorch's; {CONVERSIONS[name]}")


def vectors(where: str, size: int | None, dtype: Any = None, /, **given: Any) -> Tensor:
    """What is `given`, under its name, as vectors (B, T, size), of any size if that is None, and of a dtype."""
    (name, x), = given.items()
    wanted = f"{name} (B, T, {'E' if size is None else size})"
    x = x if isinstance(x, Tensor) else numbers(where, wanted, x)
    if x.ndim != 3 or size not in (None, x.shape[2]):
        raise ValueError(f"{where}: expected {wanted}, got shape {x.shape}")
    if dtype not in (None, x.dtype):
        raise TypeError(f"{where}: expected {wanted} of {dtype}, as the weights, got {x.dtype}: convert one of them, "
                        f"module.to(dtype) or {name}.astype(dtype)")
    return x


def numbers(where: str, wanted: str, x: Like, beside: Tensor | None = None) -> Tensor:
    """x as a Tensor, where that `beside` it lives; what is no array of numbers is refused."""
    try:
        return ops.operand(x) if beside is None else ops.like(beside, x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where}: expected {wanted}, got {check.describe(x)}: {error}") from None


def length_mask(lengths: Like, steps: int, rows: int | None = None, where: str = "length_mask") -> Tensor:
    """(B,) lengths -> (B, steps) booleans: True at the real positions. On a device nobody looks at the lengths. B is
    `rows` if given; errors name `where`.

    >>> nn.length_mask([2, 0, 3], 4)
    tensor([[ True,  True, False, False],
            [False, False, False, False],
            [ True,  True,  True, False]])

    Raises ValueError for lengths that are not integers from 0 to `steps`.
    """
    check.integers(where, 0, steps=steps, **{} if rows is None else {"rows": rows})
    ends = ops.expand_dims(ops.asarray(checked_lengths(lengths, steps, rows, where)), 1)
    return ops.less(namespace(ends.data).arange(steps), ends)


def cut_padding(where: str, x: Like, lengths: Like, reach: int) -> tuple[Like, int]:
    """x (B, S, ...), without the last columns that are padding in all rows if it is wider than `reach`; and how many
    columns those were. Lengths on a device are looked at only then."""
    x = x if isinstance(x, Tensor) else on_host(x)
    if lengths is None or len(x.shape) < 2 or x.shape[1] <= reach:
        return x, 0
    longest = int(length_mask(lengths, x.shape[1], x.shape[0], where).numpy().any(0).sum())
    return x[:, :longest], x.shape[1] - longest


def attention_mask(name: str, x: Tensor, shape: Sequence[int], given: Like, lengths: Like = None) -> Tensor | None:
    """What takes part, where x lives, as booleans that broadcast to scores of `shape` (B, heads, T, S); None for all.

    `given` is boolean, (B, S), (B, T, S) or (B, heads, T, S), with 1 for axes along which it is the same; the first
    `lengths` (B,) of S take part.
    """
    real = None if lengths is None else ops.like(x, length_mask(lengths, shape[-1], shape[0], name))[:, None, None]
    if given is None:
        return real
    mask = numbers(name, "a boolean mask", given, x)
    wanted = {2: (shape[0], shape[3]), 3: (shape[0], *shape[2:]), 4: tuple(shape)}.get(mask.ndim, ())
    if mask.dtype != np.bool or not wanted or any(m not in (1, n) for m, n in zip(mask.shape, wanted, strict=True)):
        raise ValueError(f"{name}: expected a boolean mask, True where a position takes part, of shape (B, S), "
                         f"(B, T, S) or (B, heads, T, S) with (B, heads, T, S) = {tuple(shape)}, got shape "
                         f"{mask.shape} and dtype {mask.dtype}; of numbers that are added to scores it is mask == 0, "
                         "of one (T, S) for all rows mask[None], and of a future to hide causal=True")
    mask = ops.reshape(mask, (mask.shape[0], *(1,) * (4 - mask.ndim), *mask.shape[1:]))
    return mask if real is None else mask & real


def masked_memory(name: str, memory: Tensor, mask: Like) -> tuple[Tensor, Tensor | None]:
    """A memory (B, S, M), 0 where it takes no part (0 times a NaN would be one), and its mask (B, S), where that lives;
    anything but booleans of that shape is refused."""
    memory = numbers(name, "memory (B, S, M)", memory)
    if memory.ndim == 4:
        raise ValueError(f"{name}: expected a memory (batch, positions, features), got shape {memory.shape}; an image "
                         "(B, height, width, features) becomes one by memory.reshape((B, height * width, features))")
    memory = vectors(name, None, memory=memory)
    if mask is None:
        return memory, None
    real = numbers(name, "a boolean mask", mask, memory)
    if real.dtype != np.bool or real.shape != memory.shape[:2]:
        raise ValueError(f"{name}: expected a boolean mask (B, S) = {memory.shape[:2]}, True where a position takes "
                         f"part (PyTorch's key_padding_mask is ~mask), got shape {real.shape} and dtype {real.dtype}")
    return ops.where(ops.expand_dims(real, 2), memory, 0.0), real
