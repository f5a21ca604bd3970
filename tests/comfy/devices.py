"""Marks of tests that are about one kind of device."""

import pytest

from .server import on_gpu

cpu_only = pytest.mark.skipif(on_gpu(), reason="is about CPUs")
gpu_only = pytest.mark.skipif(not on_gpu(), reason="needs a GPU, and WANDUET_TEST_GPU")
