"""How the lines of each benchmark become a table. A table without a layout shows all it has."""

from collections.abc import Mapping

from .host_layouts import FIRST_USE, HOST_MEMORY, SOAK
from .parallel_layouts import DISTRIBUTE, FAULT, PARALLEL, PROFILE
from .tables import Column, Layout, Row, contestant


def _number(title: str, key: str, form: str) -> Column:
    return Column(title, lambda row: row.number(key, form).replace("e-0", "e-"))


def _percent(title: str, key: str, form: str) -> Column:
    def text(row: Row) -> str:
        share, error = row.line.get(key), row.line.get(f"{key}_error")
        if share is None:
            return ""
        return f"{100 * share:{form}}" + (f" ± {100 * error:{form}}" if error else "") + " %"

    return Column(title, text)


def _faster(row: Row) -> str:
    """How much faster the same clips are, with one standard error."""
    error = row.number("faster_px_error", ".2f")
    return error and f"{row.number('faster_px', '+.2f')} ± {error}"


def _word(title: str, key: str) -> Column:
    return Column(title, lambda row: row.name(key))


def _ratio(title: str, key: str) -> Column:
    return Column(title, lambda row: row.ratio(key))


def _model(row: Row) -> str:
    layers = row.line.get("layers")
    part = f", {layers} of {row.line['of_layers']} blocks" if layers else ""
    return row.name("model") + part


def _settings(row: Row) -> str:
    parts = [str(row.line.get("attention", "")).removeprefix("attention_")]
    if row.line.get("compiled"):
        parts.append("compiled")
    elif row.line.get("stages") == "plain":
        parts.append("plain")
    if row.line.get("residual") == "bf16":
        parts.append("bf16 residual")
    return ", ".join(part for part in parts if part)


def _loading(row: Row) -> str:
    return ", ".join(part for part in (row.name("precision"), _settings(row)) if part)


def _seconds(row: Row) -> str:
    return str(row.line.get("failed", "")).partition(". ")[0] or row.number("seconds", ".2f")


def _formats(row: Row) -> str:
    weights = row.name("weights")
    return row.name("precision") + (f", weights {weights}" if weights else "")


def _shares(title: str, ends: str) -> Column:
    """Returns a column of all shares whose names end so, with what comes before."""

    def text(row: Row) -> str:
        shares = {key: share for key, share in row.line.items() if key.endswith(ends)}
        return ", ".join(f"{key.removesuffix(ends)} {shares[key]:.0%}" for key in shares)

    return Column(title, text)


def _card(row: Row) -> str:
    return row.number("card_gib", "g") if row.line.get("card_gib") else "whole"


def _plan(row: Row) -> str:
    """Returns the plan of memory, which is the last line that the sampler shows."""
    shown = row.line.get("shown") or [""]
    return shown[-1].rpartition("\n")[2]


def _on(row: Row) -> str:
    card = _card(row)
    return "whole card" if card == "whole" else f"{card} GiB card"


def _difference(row: Row) -> str:
    differs = "" if row.line.get("equal", True) else "other bits than resident"
    return str(row.line.get("failed", differs)).partition(". ")[0]


def _peaks(row: Row) -> str:
    planned, measured = (row.number(key, ".2f") for key in ("planned_peak_gib", "peak_gib"))
    return f"{planned} / {measured}" if measured else ""


BY = Column("by", contestant)
SECONDS = Column("seconds", _seconds)
SIZE = _word("size", "size")
FLOOR = _number("floor, s", "floor_seconds", ".2f")
PEAK = _number("peak GiB", "peak_gib", ".2f")
ESTIMATE = _number("estimate GiB", "estimate_gib", ".2f")
ERROR = _number("rms error", "rms_error", ".1e")
CARD = Column("card GiB", _card)
RATIOS = (_ratio("ours / its: time", "seconds"), _ratio("memory", "peak_gib"))

FORWARD = Layout(
    subject=("model", "layers", "format", "size"),
    settings=("residual", "compiled", "stages", "attention"),
    columns=(
        Column("model", _model),
        SIZE,
        _word("format", "format"),
        BY,
        Column("attention", _settings),
        SECONDS,
        FLOOR,
        _number("first pass, s", "first_seconds", ".1f"),
        PEAK,
        ESTIMATE,
        ERROR,
        *RATIOS,
    ),
    title=lambda row: f"{_model(row)} {row.name('size')} {row.name('format')} ({_settings(row)})",
)

CEILINGS = Layout(
    subject=("model", "size", "attention"),
    columns=(
        _word("model", "model"),
        SIZE,
        _number("bf16 matmuls, TFLOP/s", "bf16_tflops", ".0f"),
        _number("fp8", "fp8_tflops", ".0f"),
        _number("int8", "int8_tflops", ".0f"),
        _word("attention", "attention"),
        _number("its TFLOP/s", "attention_tflops", ".0f"),
        _number("copies, GB/s", "copy_gb_s", ".0f"),
    ),
    title=lambda row: f"ceilings {row.name('size')}",
    told=None,
)

VAE = Layout(
    subject=("vae", "operation", "size", "dtype"),
    columns=(
        _word("VAE", "vae"),
        _word("operation", "operation"),
        SIZE,
        BY,
        SECONDS,
        FLOOR,
        PEAK,
        ESTIMATE,
        _number("PSNR to fp32, dB", "psnr_to_fp32_db", ".1f"),
        *RATIOS,
    ),
    title=lambda row: f"VAE {row.name('vae')} {row.name('operation')} {row.name('size')}",
)

LINEAR = Layout(
    subject=("format", "in", "out", "rows", "chunk", "input"),
    columns=(
        _word("format", "format"),
        Column("weight", lambda row: f"{row.name('in')} to {row.name('out')}"),
        _word("tokens", "rows"),
        _word("at once", "chunk"),
        _number("ms", "ms", ".2f"),
        _number("TFLOP/s", "tflops", ".0f"),
        ERROR,
    ),
    title=lambda row: (
        f"{row.name('format')} {row.name('in')} to {row.name('out')}, {row.name('rows')} tokens"
    ),
    told=("ms", "{:.2f} ms"),
)

ATTENTION = Layout(
    subject=("backend", "size"),
    columns=(
        Column("backend", lambda row: f"{row.name('backend')} {row.name('version')}".rstrip()),
        SIZE,
        _number("ms", "ms", ".2f"),
        _number("TFLOP/s", "tflops", ".0f"),
        ERROR,
        _word("note", "note"),
    ),
    title=lambda row: f"{row.name('backend')} {row.name('size')}",
    told=("ms", "{:.1f} ms"),
)

BLOCK_SWAP = Layout(
    subject=("size", "case", "attention", "in_memory"),
    columns=(
        SIZE,
        _word("case", "case"),
        SECONDS,
        _number("of resident", "ratio", ".3f"),
        Column("planned / measured peak, GiB", _peaks),
        _number("held by the allocator", "reserved_gib", ".2f"),
        _number("private RAM, GiB", "private_ram_gib", ".2f"),
        Column("note", _difference),
    ),
    title=lambda row: f"block swap {row.name('size')} {row.name('case')}",
    told=("ratio", "{:.3f} of resident"),
)

SERVER = Layout(
    subject=("size", "card_gib", "prompt", "limits"),
    settings=("precision", "attention", "compiled"),
    columns=(
        SIZE,
        CARD,
        _word("prompt", "prompt"),
        BY,
        Column("with", _loading),
        SECONDS,
        _number("GPU GiB", "peak_gib", ".1f"),
        _number("private RAM, GiB", "private_ram_gib", ".1f"),
        _number("RAM of files, GiB", "file_ram_gib", ".1f"),
        *RATIOS,
        _ratio("private RAM", "private_ram_gib"),
        Column("plan", _plan),
    ),
    title=lambda row: f"server {row.name('size')} {_on(row)}, prompt {row.name('prompt')}",
)

SERVER_BEYOND = Layout(
    subject=("size", "card_gib", "limits"),
    settings=("precision", "attention", "compiled"),
    columns=(
        SIZE,
        CARD,
        BY,
        Column("with", _loading),
        _number("a step, s", "step_seconds", ".2f"),
        _number("second prompt beyond its steps, s", "second_beyond_seconds", ".2f"),
        _number("first, cold", "first_beyond_seconds", ".2f"),
        _number("reading the files, s", "disk_seconds", ".2f"),
        _ratio("ours / its: step", "step_seconds"),
    ),
    title=lambda row: f"server {row.name('size')} {_on(row)}, second prompt beyond its steps",
    told=("second_beyond_seconds", "{:.2f} s"),
)

STEP_CACHE = Layout(
    subject=("cache", "threshold", "prompts"),
    columns=(
        _word("cache", "cache"),
        _word("threshold", "threshold"),
        _percent("passes", "passes", ".0f"),
        _number("latent, dB: mean", "latent_db", ".1f"),
        _number("min", "latent_db_min", ".1f"),
        _number("video, dB", "video_db", ".1f"),
        _percent("all right", "all_right", ".0f"),
    ),
    title=lambda row: f"step cache {row.name('cache')} {row.name('threshold')}".rstrip(),
    told=("passes", "{:.0%} of the passes"),
)

QUALITY = Layout(
    subject=(
        *("models", "videos", "scenes", "clips"),
        *("steps", "precision", "weights", "preset", "guidance", "loras"),
    ),
    columns=(
        _word("videos", "videos"),
        _word("scenes", "scenes"),
        _word("preset", "preset"),
        _word("guidance", "guidance"),
        _word("steps", "steps"),
        Column("format", _formats),
        _word("clips", "clips"),
        *(_percent(key, key, ".1f") for key in ("colour", "shape", "motion", "count")),
        _percent("all right", "all_right", ".1f"),
        _shares("shapes right", "_shape"),
        _shares("kinds shown", "_shown"),
        _number("px a frame", "speed_px", ".2f"),
        Column("more than the first preset's", _faster),
        _number("first frame, dB: mean", "first_frame_db", ".1f"),
        _number("min", "first_frame_db_min", ".1f"),
        _number("to fp32, dB", "to_fp32_db", ".1f"),
        _number("s per clip", "seconds", ".2f"),
    ),
    title=lambda row: f"{row.name('videos')}, {row.name('clips')} clips, all right",
    told=("all_right", "{:.1%}"),
)

QUALITY_VAE = Layout(
    subject=("models", "vae", "split", "clips", "precision"),
    columns=(
        _word("VAE", "vae"),
        _word("split", "split"),
        _word("clips", "clips"),
        _number("PSNR, dB: mean", "psnr_db", ".1f"),
        _number("min", "psnr_db_min", ".1f"),
        _number("s per clip", "seconds", ".2f"),
    ),
    title=lambda row: f"{row.name('vae')} VAE, {row.name('split')} clips",
    told=("psnr_db", "{:.1f} dB"),
)

MOTION = Layout(
    subject=("amplitude", "videos", "steps"),
    columns=(
        _word("motion_amplitude", "amplitude"),
        _word("steps", "steps"),
        _word("videos", "videos"),
        _number("px a frame", "speed_px", ".2f"),
        _number("background's drift, levels of 255", "drift_levels", ".2f"),
    ),
    title=lambda row: f"motion amplitude {row.name('amplitude')}",
    told=("speed_px", "{:.2f} px a frame"),
)

NEGATIVE = Layout(
    subject=("way", "videos"),
    columns=(
        _word("negative prompt names", "way"),
        _word("videos", "videos"),
        _percent("same background", "same_background", ".0f"),
        _percent("all right", "all_right", ".0f"),
    ),
    title=lambda row: f"negative prompt {row.name('way')}, same background",
    told=("same_background", "{:.0%}"),
)

SEAMS = Layout(
    subject=("what", "way", "frames", "videos", "steps"),
    columns=(
        _word("what", "what"),
        _word("way", "way"),
        _word("frames", "frames"),
        _word("videos", "videos"),
        _number("step over the seam, px off", "step_px", ".2f"),
        _number("speed after / before", "speed_ratio", ".2f"),
        _number("background, levels of 255", "colour_levels", ".2f"),
    ),
    title=lambda row: f"seam, {row.name('way')}",
    told=("step_px", "{:.2f} px"),
)

SPEED_TIERS = Layout(
    subject=("tier", "attention", "steps", "prompts"),
    columns=(
        _word("speed", "tier"),
        _word("matmuls", "weights"),
        _word("attention", "attention"),
        _word("step cache", "cache"),
        _percent("passes", "passes", ".0f"),
        _number("video, dB to fp32: mean", "to_fp32_db", ".1f"),
        _number("min", "to_fp32_db_min", ".1f"),
        _percent("all right", "all_right", ".0f"),
    ),
    title=lambda row: f"speed {row.name('tier')}",
    told=("to_fp32_db", "{:.1f} dB"),
)

LAYOUTS: Mapping[str, Layout] = {
    "forward": FORWARD,
    "ceilings": CEILINGS,
    "vae": VAE,
    "linear": LINEAR,
    "attention": ATTENTION,
    "block_swap": BLOCK_SWAP,
    "server": SERVER,
    "server_beyond": SERVER_BEYOND,
    "step_cache": STEP_CACHE,
    "speed_tiers": SPEED_TIERS,
    "quality": QUALITY,
    "quality_vae": QUALITY_VAE,
    "motion": MOTION,
    "negative": NEGATIVE,
    "seams": SEAMS,
    "parallel": PARALLEL,
    "parallel_vae": PARALLEL,
    "parallel_profile": PROFILE,
    "parallel_vae_profile": PROFILE,
    "host_memory": HOST_MEMORY,
    "soak": SOAK,
    "first_use": FIRST_USE,
    "distribute": DISTRIBUTE,
    "distribute_fault": FAULT,
}
"""By the name that the lines have."""
