"""API prompts with values of wrong types at every input of our nodes, to a real server.

    COMFYUI_PATH=... python benchmarks/wrong_values.py --cases 5000

Each must be answered by status 400 with one error, at the node and the input that is wrong. Prints
a JSON line, and to stderr what was answered otherwise. Runs on a CPU, on toy models.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from benchmarks.toy_server import toy_server
from tests.comfy.wrong_values import inputs_of, judged


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    with toy_server() as server:
        inputs = inputs_of(server)
        cases = range(options.first, options.first + options.cases)
        wrong = [answer for case in cases if (answer := judged(server, inputs, case))]
    for answer in wrong:
        print(answer, file=sys.stderr)
    values = {"first": options.first, "cases": len(cases), "inputs": len(inputs)}
    seconds = round(time.monotonic() - started, 1)
    emit("wrong_values", {**values, "answered_otherwise": len(wrong), "seconds": seconds})
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
