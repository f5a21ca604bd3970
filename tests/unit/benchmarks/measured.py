"""Lines as the benchmarks print them."""

import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]

H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "memory_gib": 79.2,
    "driver_version": "580.1",
    "power.limit": "700.00 W",
}
VERSIONS = {"python": "3.12.0", "torch": "2.11.0+cu130"}
LABELS = {
    "wan-duet": "wan-duet",
    "comfyui": "ComfyUI 0.3.75",
    "diffusers": "diffusers 0.42.1",
}


def line(table: str, run: str = "1", **values: Any) -> Line:
    about = {"date": f"2026-11-2{run}T10:00:00+00:00", "run": run, "commit": "83b72d0"}
    about["command"] = "python x.py"
    return {"table": table, **values, **about, "machine": H100, "versions": VERSIONS}


def forward(contestant: str, seconds: float | None, run: str = "1", **values: Any) -> Line:
    about = {"model": "a14b", "format": "bf16", "size": "832x480x81", "contestant": contestant}
    if contestant == "wan-duet":
        about |= {"residual": "fp32", "compiled": False, "attention": "sdpa"}
    return line("forward", run, **about, label=LABELS[contestant], seconds=seconds, **values)


def write(path: Path, *lines: Line) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return path
