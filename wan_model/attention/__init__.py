"""Attention backends behind one function type."""

from .registry import AttentionFn, Backend, BackendStatus, explain, names, resolve

__all__ = ["AttentionFn", "Backend", "BackendStatus", "explain", "names", "resolve"]
