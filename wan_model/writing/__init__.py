"""Checkpoints that are written: converted ones that are kept, and files for others."""

from .converted import converted_file

__all__ = ["converted_file"]
