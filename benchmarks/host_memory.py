"""RAM that a pair of experts takes in one process, and in several that compute together.

    python benchmarks/host_memory.py --ranks 1 2 --layers 4

Writes two experts as wide as A14B in fp8, with random weights, has them loaded and run by as many
processes as *Distribute* would start (`wan_model.worker`), and reads what each then has for itself:
anonymous and shared memory by its part (PSS) of `/proc/self/smaps_rollup`. Weights that stay in
their files are in the system's cache, once for all processes, and are counted once as the size of
the files. What stands for a GPU's memory is taken off. What a process has before it loads anything,
Python and PyTorch, is counted and also given by itself (`before_mib`): it does not grow with the
model, so `of_first` is less at all 40 blocks.

A processor pins nothing. What a GPU's process pins beyond its ring of 256 MiB is shared out among
the processes, so their sum stays (`Limits.shared`).

Linux only. Prints JSON lines; `>> benchmarks/results/host_memory.jsonl` keeps them for
report.py.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from benchmarks.watch import own_bytes
from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.offload import Limits
from wan_model.quant import AS_STORED
from wan_model.worker import Worker

MIB = 2**20


def config(layers: int) -> DiTConfig:
    """Returns A14B's sizes with so many blocks, and a small text."""
    return DiTConfig(
        dim=5120,
        ffn_dim=13824,
        num_heads=40,
        num_layers=layers,
        in_channels=16,
        out_channels=16,
        text_dim=64,
        text_len=16,
    )


def write_experts(folder: Path, layers: int) -> list[str]:
    """Writes two experts whose blocks' matrices are fp8, and returns their files."""
    files = []
    with torch.device("meta"):
        dit = WanDiT(config(layers), precision=Precision(), attention=resolve("sdpa"))
    for name in ("high", "low"):
        weights = {n: _random(n, t.shape) for n, t in dit.state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors")
        files.append(str(folder / f"{name}.safetensors"))
    return files


def _random(name: str, shape: Sequence[int]) -> Tensor:
    if name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2:
        # Any codes do but the two that are no numbers, at 0x7F and 0xFF.
        codes = torch.randint(0, 0x38, tuple(shape), dtype=torch.uint8)
        return codes.view(torch.float8_e4m3fn)
    return torch.randn(*shape).bfloat16() * 0.02


def rank_main(rank: int, ranks: int, files: list[str], layers: int, folder: str) -> None:
    """Loads both experts, runs each of them, and leaves what this process has in a file."""
    torch.set_num_threads(1)
    worker, port = Worker("cpu", rank, ranks), Path(folder, f"port{ranks}")
    if rank == 0:
        part = port.with_suffix(".part")
        part.write_text(str(worker.open_meeting("127.0.0.1")))
        part.rename(port)
    while not port.exists():
        time.sleep(0.01)
    worker.meet("127.0.0.1", int(port.read_text()))
    before = own_bytes()
    shared = Limits(blocks_to_swap=layers).shared(ranks, 0)
    worker.load(files, "float32", AS_STORED, "sdpa", asdict(shared), "")
    inputs = {
        "latent": torch.randn(1, 16, 1, 8, 8),
        "timestep": torch.tensor([900.0]),
        "text": torch.randn(1, 8, config(layers).text_dim),
        "cond": None,
    }
    on_device = 0
    for expert in (0, 1):
        _, on_device, _ = worker.predict(expert, inputs, 1, ranks, {})
    found = {"before": before, "after": own_bytes() - on_device, "device": on_device}
    Path(folder, f"{ranks}.{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2], help="processes")
    parser.add_argument("--layers", type=int, default=4, help="blocks of each expert")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_experts(Path(folder), options.layers)
        nbytes = sum(Path(file).stat().st_size for file in files)
        one = 0.0
        for ranks in options.ranks:
            arguments = (ranks, files, options.layers, folder)
            start_processes(rank_main, arguments, ranks, start_method="spawn")
            found = [json.loads(path.read_text()) for path in Path(folder).glob(f"{ranks}.*.json")]
            total = nbytes + sum(each["after"] for each in found)
            one = one or float(total)
            values = {"ranks": ranks, "layers": options.layers, "files_mib": nbytes // MIB}
            for name in ("before", "after", "device"):
                values[f"{name}_mib"] = sum(each[name] for each in found) // MIB
            emit("host_memory", {**values, "of_first": round(total / one, 3)})


if __name__ == "__main__":
    main()
