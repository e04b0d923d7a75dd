"""Compile the Triton kernels for a GPU that need not be there, in a process whose Triton does not interpret."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.triton import prefix_attention, trie_topk

HOPPER = GPUTarget("cuda", 90, 32)


def compiled(function: Any, pointers: list[str], constants: dict[str, Any], **others: str) -> None:
    """Compile a kernel whose arguments are `pointers`, then 32-bit numbers but for `others`, then constants."""
    names = [name for name in function.arg_names if name not in constants]
    signature = dict(zip(names, [f"*{kind}" for kind in pointers] + ["i32"] * len(names), strict=False))
    source = ASTSource(function, {**signature, **others, **dict.fromkeys(constants, "constexpr")}, constants)
    code = triton.compile(source, target=HOPPER).asm["cubin"]
    print(function.__name__, *pointers, len(code))


for kind, block in (("bf16", 64), ("fp32", 32)):
    sizes = {"SIZE": 24, "BLOCK_M": block, "BLOCK_T": block, "BLOCK_E": 32}
    compiled(prefix_attention._attend, [kind] * 3 + ["i64"] + [kind] * 3, sizes, scale="fp32")
for filtered in (False, True):
    flags = {"FILTERED": filtered, "RENORMALIZE": filtered, "BLOCK": 256}
    counts = ["i32", "i64", "i64"] if filtered else ["i64"] * 3
    compiled(trie_topk._score_children, ["i32"] * 3 + ["i64", "fp32", "fp32", *counts, "i64"], flags)
