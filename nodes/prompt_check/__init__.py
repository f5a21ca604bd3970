"""What is wrong with a workflow, told from its widgets, links and file headers alone."""

from .check import find_problems
from .problem import Problem

__all__ = ["Problem", "find_problems"]
