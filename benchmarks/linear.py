"""Linear layers of the A14B model in every weight format: time, rate, error.

    python benchmarks/linear.py --rows 32760 75600

Prints one JSON line per format, kernel, shape and number of tokens (`| python benchmarks/report.py
--show -` makes a table of them): median milliseconds of a whole matmul (activations are quantized
inside), TFLOP/s, and the rms error relative to fp32 for activations with outlier channels. "chunk"
is the number of rows given to one call; the blocks work on runs of 8192 tokens.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from wan_model.quant import PLAIN, Linear, QuantPolicy, StoredWeight
from wan_model.quant.policy import CHOICES

SHAPES = ((5120, 5120), (5120, 13824), (13824, 5120))
"""Input and output features: attention, and both layers of the feed-forward."""

ERROR_ROWS = 2048


def policies(device: torch.device) -> Iterator[tuple[str, QuantPolicy]]:
    """Yields every format with every kernel that works here; says on stderr why others do not."""
    for choice in CHOICES:
        policy = QuantPolicy(device=device, target=choice.format)
        if not choice.kernels:
            yield choice.name, policy
        for kernel in choice.kernels:
            reason = kernel.unavailable_reason(device)
            if reason is None:
                yield f"{choice.name}, {kernel.label}", replace(policy, kernels=(kernel,))
            else:
                sys.stderr.write(f"{choice.name}, {kernel.label}: {reason}\n")


def random_weight(inputs: int, outputs: int, device: torch.device) -> Tensor:
    """Returns a bf16 weight with a few rows that are much larger than the others."""
    generator = torch.Generator(device).manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator, device=device) * inputs**-0.5
    weight[::97] *= 10
    return weight.bfloat16()


def random_tokens(rows: int, inputs: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Returns activations with a few channels that are much larger than the others."""
    generator = torch.Generator(device).manual_seed(1)
    x = torch.randn(rows, inputs, generator=generator, device=device, dtype=dtype)
    x[:, ::101] *= 10
    return x


def measure(layer: Linear, x: Tensor, chunk: int, repeats: int) -> float:
    """Returns the median milliseconds of the layer applied to all rows, chunk by chunk."""
    out = torch.empty(len(x), layer.out_features, dtype=layer.compute_dtype, device=x.device)
    milliseconds = []
    for number in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for row in range(0, len(x), chunk):
            out[row : row + chunk] = layer(x[row : row + chunk])
        end.record()
        end.synchronize()
        if number >= 2:
            milliseconds.append(start.elapsed_time(end))
    return statistics.median(milliseconds)


def rms_error(layer: Linear, weight: Tensor) -> float:
    """Returns the rms error of the result relative to fp32."""
    x = random_tokens(ERROR_ROWS, layer.in_features, weight.device, torch.float32)
    exact = x @ weight.float().T
    return ((layer(x) - exact).norm() / exact.norm()).item()


def lines(options: argparse.Namespace, device: torch.device) -> Iterator[dict[str, object]]:
    """Yields the table, row by row."""
    given = getattr(torch, options.input)
    available = list(policies(device))
    for inputs, outputs in SHAPES:
        weight = random_weight(inputs, outputs, device)
        for name, policy in available:
            dtype = policy.compute_dtype(None, torch.bfloat16)
            layer = Linear(inputs, outputs, compute_dtype=dtype)
            policy.place(layer, StoredWeight(PLAIN[weight.dtype], weight), device)
            layer.bias = torch.nn.Parameter(weight[:, 0].clone() * 0, requires_grad=False)
            error = rms_error(layer, weight)
            for rows in options.rows:
                x = random_tokens(rows, inputs, device, given)
                chunk = options.chunk or rows
                line = {"format": name, "in": inputs, "out": outputs, "rows": rows, "chunk": chunk}
                milliseconds = measure(layer, x, chunk, options.repeats)
                yield line | {
                    "input": options.input,
                    "ms": round(milliseconds, 4),
                    "tflops": round(2 * rows * inputs * outputs / milliseconds / 1e9, 1),
                    "rms_error": round(error, 5),
                }


@torch.inference_mode()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[32760, 75600], help="tokens")
    parser.add_argument("--chunk", type=int, default=8192, help="rows per call; 0: all of them")
    parser.add_argument("--input", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    for line in lines(options, torch.device("cuda", torch.cuda.current_device())):
        emit("linear", line)


if __name__ == "__main__":
    main()
