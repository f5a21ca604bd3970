"""Attention backends behind one function type."""

from .auto import MAX_ERROR
from .backend import AttentionFn, Backend, Constraints, Platform
from .guarded import FirstPasses, Guarded, copies_of, guarded, name_of
from .registry import BackendStatus, explain, names, resolve, resolve_sparse
from .sol import SparseSchedule

__all__ = [
    "MAX_ERROR",
    "AttentionFn",
    "Backend",
    "BackendStatus",
    "Constraints",
    "FirstPasses",
    "Guarded",
    "Platform",
    "SparseSchedule",
    "copies_of",
    "explain",
    "guarded",
    "name_of",
    "names",
    "resolve",
    "resolve_sparse",
]
