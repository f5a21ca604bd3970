"""Attention backends behind one function type."""

from .advice import Advice, advice
from .auto import FAST_MAX_ERROR, MAX_ERROR, recall, remember
from .backend import AttentionFn, Backend, Constraints, Platform
from .guarded import FirstPasses, Guarded, copies_of, guarded, name_of, try_again
from .kernel_timing import measure
from .registry import (
    NO_ROOM,
    WAITING,
    Measure,
    automatic,
    names,
    resolve,
    resolve_fast,
    resolve_sparse,
)
from .sol import SparseSchedule

__all__ = [
    "FAST_MAX_ERROR",
    "MAX_ERROR",
    "NO_ROOM",
    "WAITING",
    "Advice",
    "AttentionFn",
    "Backend",
    "Constraints",
    "FirstPasses",
    "Guarded",
    "Measure",
    "Platform",
    "SparseSchedule",
    "advice",
    "automatic",
    "copies_of",
    "guarded",
    "measure",
    "name_of",
    "names",
    "recall",
    "remember",
    "resolve",
    "resolve_fast",
    "resolve_sparse",
    "try_again",
]
