"""A process that predicts for another one, alone or as one of several ranks."""

from .rank import Worker

__all__ = ["Worker"]
