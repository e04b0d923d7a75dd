"""Variants of GenRec that the studies compare: ways to train it, and ways to align it."""

from __future__ import annotations

from typing import Any

from models.alignment.config import PAPER_ROWS

TRAINED: dict[str, dict[str, Any]] = {
    "page": {},
    "point": {"objective": "point"},
    "unmerged": {"merge_history": False},
}
"""What a variant of supervised training changes of `genrec`: page-wise and merged is the configured one."""
ALIGNED: dict[str, dict[str, Any]] = {
    **PAPER_ROWS,
    "grpo_sr_sampled": {"rollouts": "sample"},
    "grpo_sr_admission": {"admission": True},
}
"""What a variant of alignment changes of `align`; each starts from the configured supervised run of its seed."""
VARIANTS = (*TRAINED, *ALIGNED)
