"""The extension's pure functions, in Node.js, if it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("node") is None, reason="No Node.js.")
def test_pure_functions():
    file = Path(__file__).with_name("pure.test.mjs")
    command = ["node", "--test", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
