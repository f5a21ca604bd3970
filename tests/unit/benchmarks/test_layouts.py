"""Every benchmark's lines become a table and, where one number tells most, a line for an issue."""

from typing import Any

import pytest

from benchmarks.layouts import LAYOUTS
from benchmarks.markdown import headline, table, tables

from .measured import line
from .test_tables import cells

PROMPT = {"size": "832x480x81", "card_gib": 24.0, "prompt": "second", "limits": "{}"}
PLAN = "High 2 | Low 2\nall 40 blocks streamed, peak 7.4 of 8.0 GiB"
TOGETHER = {"alone_seconds": 2.5324, "seconds": 1.3862, "speedup": 1.827, "rms_error": 0.0}
PARALLEL = {"model": "a14b", "format": "bf16", "size": "832x480x81", "of_layers": 40, **TOGETHER}
PROFILE = {"seconds": 0.5, "kinds": {"convolution": 0.2, "matmul": 0.1}, "exchange_alone": 0.02}
PROFILE |= {"idle": 0.01}
NODE = {
    "model": "a14b",
    "size": "832x480x81",
    "layers": 40,
    "of_layers": 40,
    "gpu_gib": [30.5, 29.8],
}
CORE = {"contestant": "core", "label": "ComfyUI 0.3.75"}

LINES: dict[str, dict[str, Any]] = {
    "ceilings": {"model": "a14b", "size": "832x480x81", "bf16_tflops": 741.2, "copy_gb_s": 3009.0},
    "linear": {"format": "fp8", "in": 5120, "out": 13824, "rows": 75600, "ms": 9.1, "tflops": 1176},
    "attention": {
        "backend": "flash_attn_3",
        "version": "0.0.3",
        "size": "480p81",
        "ms": 31.14,
        "tflops": 706.6,
        "rms_error": 0.0023,
    },
    "block_swap": {
        "size": "1280x720x81",
        "case": "8 GiB pair",
        "seconds": 13.48,
        "ratio": 0.998,
        "planned_peak_gib": 6.95,
        "peak_gib": 6.92,
        "equal": True,
    },
    "server": {**PROMPT, "seconds": 12.0, "private_ram_gib": 2.0, "shown": [PLAN]},
    "server_beyond": {**PROMPT, "step_seconds": 2.0, "second_beyond_seconds": 0.43},
    "step_cache": {"cache": "auto", "threshold": "own", "prompts": 14, "passes": 0.72},
    "speed_tiers": {"tier": "fast", "steps": 20, "prompts": 14, "to_fp32_db": 36.5},
    "quality": {
        "videos": "t2v",
        "scenes": "rich",
        "clips": 56,
        "colour": 0.982,
        "all_right": 0.835,
        "all_right_error": 0.044,
        "ring_shape": 1.0,
        "star_shape": 0.42,
        "pace_shown": 0.9,
        "light_shown": 1.0,
    },
    "quality_vae": {"vae": "Wan2.1", "split": "novel", "clips": 32, "psnr_db": 33.21},
    "motion": {"amplitude": "1.15", "videos": 3, "steps": 8, "speed_px": 2.82},
    "negative": {"way": "its background, with NAG", "videos": 24, "same_background": 0.125},
    "seams": {"way": "continued", "frames": 33, "videos": 3, "steps": 8, "step_px": 0.98},
    "parallel": {**PARALLEL, "layers": 40, "split": "ulysses", "ranks": 2, "sent_gb": 13.42},
    "parallel_vae": {"vae": "wan2.1", "size": "832x480x81", **TOGETHER, "rms_error": 0.00396},
    "parallel_profile": {**PARALLEL, "layers": 10, "split": "cfg", **PROFILE},
    "parallel_vae_profile": {"vae": "wan2.1", "size": "832x480x81", **PROFILE},
    "host_memory": {"ranks": 2, "layers": 1, "files_mib": 1479, "after_mib": 435, "of_first": 1.1},
    "soak": {
        "server": "core",
        "prompts": 1000,
        "rss_kib_a_prompt": [20.874, 0.118],
        "heap_kib_a_prompt": None,
        "files_a_prompt": [-0.0, 0.0],
        "threads_a_prompt": [0.0, 0.0],
        "disk_bytes_a_prompt": [0.012, 0.004],
        "differences": [],
    },
    "first_use": {"case": "5B bf16", "mode": "watched", "kernels": 7, "ahead_seconds": 7.354}
    | {"longest_pauses": [0.1568, 0.0958], "first_seconds": 0.2846, "second_seconds": 0.0025},
    "distribute": {**NODE, "mode": "auto", "cfg": 2, **TOGETHER, "step_seconds": 1.4},
    "distribute_fault": {**NODE, "mode": "auto", "fault": "cancelled", "left": 0, "next": "success"}
    | {"next_seconds": 4.1, "rms_error": 0.0},
}
SHOWN = {
    "ceilings": {
        "model": "A14B",
        "bf16 matmuls, TFLOP/s": "741",
        "fp8": "",
        "copies, GB/s": "3009",
    },
    "linear": {"weight": "5120 to 13824", "tokens": "75600", "ms": "9.10", "TFLOP/s": "1176"},
    "attention": {"backend": "flash_attn_3 0.0.3", "TFLOP/s": "707", "rms error": "2.3e-3"},
    "block_swap": {
        "planned / measured peak, GiB": "6.95 / 6.92",
        "of resident": "0.998",
        "note": "",
    },
    "server": {"card GiB": "24", "by": "WanDuet", "plan": PLAN.splitlines()[1]},
    "server_beyond": {"a step, s": "2.00", "second prompt beyond its steps, s": "0.43"},
    "step_cache": {"threshold": "own", "passes": "72 %", "video, dB": ""},
    "speed_tiers": {"speed": "fast", "video, dB to fp32: mean": "36.5", "all right": ""},
    "quality": {
        "scenes": "rich",
        "colour": "98.2 %",
        "all right": "83.5 ± 4.4 %",
        "shapes right": "ring 100%, star 42%",
        "kinds shown": "pace 90%, light 100%",
        "to fp32, dB": "",
    },
    "quality_vae": {"VAE": "Wan2.1", "PSNR, dB: mean": "33.2"},
    "motion": {"motion_amplitude": "1.15", "px a frame": "2.82"},
    "negative": {"negative prompt names": "its background, with NAG", "same background": "12 %"},
    "seams": {"way": "continued", "step over the seam, px off": "0.98", "speed after / before": ""},
    "parallel": {
        "what": "A14B",
        "blocks": "all",
        "split": "ulysses",
        "faster": "1.827 x",
        "rms to one GPU": "0",
        "sent, GB": "13.42",
        "GB/s": "",
    },
    "parallel_vae": {"what": "VAE wan2.1 decode", "split": "rows", "rms to one GPU": "4.0e-3"},
    "parallel_profile": {"blocks": "10 of 40", "split": "cfg", "all, ms": "500.0"},
    "parallel_vae_profile": {"matmuls, convolutions": "300.0", "of it, nothing beside": "20.0"},
    "host_memory": {"own, MiB": "435", "of it before loading": "", "RAM, MiB": "1,914"},
    "soak": {
        "nodes": "ComfyUI",
        "prompts": "1,000",
        "a prompt adds: private memory, KiB": "20.87 ± 0.12",
        "of it not freed to C's allocator": "",
        "open files": "0",
    },
    "first_use": {"kernels are": "watched", "longest pause of others, ms": "157"},
    "distribute": {"mode": "auto, with guidance", "on all, s": "1.400", "rms to one GPU": "0"},
    "distribute_fault": {"processes left": "0", "the next prompt": "4.1 s, rms 0"}
    | {"GPUs then, GiB": "30.5 and 29.8"},
}
TOLD = {
    "linear": "fp8 5120 to 13824, 75600 tokens 9.10 ms",
    "attention": "flash_attn_3 480p81 31.1 ms",
    "block_swap": "block swap 1280x720x81 8 GiB pair 0.998 of resident, peak 6.9 GiB",
    "server": "server 832x480x81 24 GiB card, prompt second 12.00 s",
    "server_beyond": "server 832x480x81 24 GiB card, second prompt beyond its steps 0.43 s",
    "step_cache": "step cache auto own 72% of the passes",
    "speed_tiers": "speed fast 36.5 dB",
    "quality": "t2v, 56 clips, all right 83.5%",
    "quality_vae": "Wan2.1 VAE, novel clips 33.2 dB",
    "motion": "motion amplitude 1.15 2.82 px a frame",
    "negative": "negative prompt its background, with NAG, same background 12%",
    "seams": "seam, continued 0.98 px",
    "parallel": "2 GPUs, A14B bf16 832x480x81 ulysses 1.83 x",
    "parallel_vae": "several GPUs, VAE wan2.1 decode 832x480x81 rows 1.83 x",
    "distribute": "Distribute, A14B 832x480x81 auto, with guidance 1.83 x",
}


def test_every_layout_is_tried():
    assert LAYOUTS.keys() - {"forward", "vae"} == LINES.keys() == SHOWN.keys()


@pytest.mark.parametrize("name", LINES)
def test_a_line_becomes_a_row_and_the_last_run_counts(name: str):
    other = {key: 1 for key, value in LINES[name].items() if isinstance(value, float)}
    lines = [line(name, run="1", **{**LINES[name], **other, "card_gib": 24.0})]
    lines += [line(name, run="2", **{**LINES[name], "card_gib": 24.0})]

    rows = cells(table(lines, name))

    assert SHOWN[name].items() <= rows[-1].items()
    assert len(rows) == 1
    assert headline(lines).split(" | ")[4:] == ([TOLD[name]] if name in TOLD else [])


@pytest.mark.parametrize(
    ("name", "key"), [("server", "seconds"), ("server_beyond", "step_seconds")]
)
def test_core_runs_beside_ours(name: str, key: str):
    theirs = line(name, **{**LINES[name], **CORE, key: 16.0, "shown": []})

    ours, core = cells(table([theirs, line(name, **LINES[name])], name))

    assert (ours["by"], core["by"]) == ("WanDuet", "ComfyUI 0.3.75")
    assert {"server": "0.75", "server_beyond": "0.12"}[name] in core.values()


def test_what_failed_is_a_row():
    lines = [line("server", **PROMPT, failed="CUDA out of memory. Tried | to\nallocate")]
    lines += [line("block_swap", size="832x480x81", case="6 GiB", failed="No | memory\nis left")]

    shown = tables(lines)

    assert cells(shown["server"])[0]["seconds"] == "CUDA out of memory"
    assert cells(shown["block_swap"])[0]["note"] == "No / memory is left"
    assert len(headline(lines).split(" | ")) == 4
    lines = [line("distribute", **NODE, mode="layers", cfg=2, failed="No | memory. Do so")]
    assert cells(table(lines, "distribute"))[0]["on all, s"] == "No / memory"


def test_results_that_differ_are_said():
    lines = [line("block_swap", **{**LINES["block_swap"], "equal": False})]

    assert cells(table(lines, "block_swap"))[0]["note"] == "other bits than resident"
