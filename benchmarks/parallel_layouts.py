"""How what several GPUs do together becomes tables: its numbers, and where the time goes."""

from .tables import Column, Layout, Row


def _subject(row: Row) -> str:
    return f"VAE {row.name('vae')} decode" if "vae" in row.line else row.name("model")


def _blocks(row: Row) -> str:
    layers, whole = (row.line.get(key) for key in ("layers", "of_layers"))
    return "" if layers is None else "all" if layers == whole else f"{layers} of {whole}"


def _split(row: Row) -> str:
    return row.name("split") if "split" in row.line else "rows"


def _seconds(title: str, key: str) -> Column:
    return Column(title, lambda row: row.number(key, ".4f"))


def _error(row: Row) -> str:
    """Returns the rms error; 0 says that all bits are alike."""
    return row.number("rms_error", ".1e").replace("e-0", "e-") if row.line["rms_error"] else "0"


def _ms(title: str, *kinds: str) -> Column:
    def text(row: Row) -> str:
        found = row.line.get("kinds", {})
        return format(1e3 * sum(found.get(kind, 0.0) for kind in kinds), ".1f")

    return Column(title, text)


def _ms_of(title: str, key: str) -> Column:
    return Column(title, lambda row: format(1e3 * row.line[key], ".1f"))


WHAT = (
    Column("what", _subject),
    Column("format", lambda row: row.name("format")),
    Column("size", lambda row: row.name("size")),
    Column("blocks", _blocks),
    Column("split", _split),
)
KEYS = ("model", "vae", "format", "size", "layers", "split", "ranks", "attention")


def _title(row: Row) -> str:
    words = (column.text(row) for column in WHAT if column.title != "blocks")
    return " ".join(word for word in words if word)


PARALLEL = Layout(
    subject=KEYS,
    columns=(
        *WHAT,
        _seconds("one GPU, s", "alone_seconds"),
        _seconds("the slower one, s", "slowest_alone_seconds"),
        _seconds("all, s", "seconds"),
        Column("faster", lambda row: f"{row.number('speedup', '.3f')} x"),
        _seconds("floor, s", "floor_seconds"),
        Column("rms to one GPU", _error),
        Column("sent, GB", lambda row: row.number("sent_gb", ".2f")),
        Column("GB/s", lambda row: row.number("gb_per_second", ".0f")),
    ),
    title=lambda row: f"{row.name('ranks') or 'several'} GPUs, {_title(row)}",
    told=("speedup", "{:.2f} x"),
)

PROFILE = Layout(
    subject=KEYS,
    columns=(
        *WHAT,
        _ms_of("all, ms", "seconds"),
        _ms("attention", "attention"),
        _ms("matmuls, convolutions", "matmul", "convolution"),
        _ms("other kernels", "other"),
        _ms("exchange", "exchange"),
        _ms_of("of it, nothing beside", "exchange_alone"),
        _ms_of("idle", "idle"),
    ),
    title=_title,
    told=None,
)


def _mode(row: Row) -> str:
    guided = ", with guidance" if row.line.get("cfg", 1.0) > 1 else ""
    return (row.line.get("mode") or "one GPU") + guided


def _gpus(row: Row) -> str:
    return " and ".join(format(taken, ".1f") for taken in row.line.get("gpu_gib", ()))


def _failed(row: Row, key: str = "failed") -> str:
    return str(row.line.get(key, "")).partition(". ")[0].replace("|", "/")


def _struck(row: Row) -> str:
    """Returns the mode that a fault happened to, if there was one."""
    return _mode(row) if row.line.get("mode") else "none"


def _ended(row: Row) -> str:
    """Returns how a prompt ended that a fault happened to, or why the fault could not happen."""
    status = row.name("status")
    return f"{status}: {_failed(row, 'said')}" if status == "failed" else status


def _next(row: Row) -> str:
    """Returns what came of the prompt behind a fault; a server that was killed has none."""
    if row.line.get("next") != "success":
        return row.name("next") if "next" in row.line else ""
    return f"{row.number('next_seconds', '.1f')} s, rms {_error(row)}"


NODE = (
    Column("what", lambda row: row.name("model")),
    Column("size", lambda row: row.name("size")),
    Column("blocks", _blocks),
    Column("mode", _mode),
)
NODE_KEYS = ("model", "size", "layers", "precision", "attention", "gpus", "mode", "cfg")

DISTRIBUTE = Layout(
    subject=NODE_KEYS,
    columns=(
        *NODE,
        Column("a step on one GPU, s", lambda row: row.number("alone_seconds", ".3f")),
        Column("on all, s", lambda row: _failed(row) or row.number("step_seconds", ".3f")),
        Column("faster", lambda row: f"{row.number('speedup', '.3f')} x"),
        Column("rms to one GPU", lambda row: _error(row) if "rms_error" in row.line else ""),
        Column("start and loading, s", lambda row: row.number("first_beyond_seconds", ".1f")),
        Column("RAM over one GPU's", lambda row: row.number("ram_of_one", ".2f")),
        Column("GPUs, GiB", _gpus),
    ),
    title=lambda row: f"Distribute, {row.name('model')} {row.name('size')} {_mode(row)}",
    told=("speedup", "{:.2f} x"),
)

FAULT = Layout(
    subject=(*NODE_KEYS, "fault"),
    columns=(
        Column("fault", lambda row: row.name("fault")),
        Column("mode", _struck),
        Column("the prompt ended", _ended),
        Column("after, s", lambda row: row.number("end_seconds", ".1f")),
        Column("processes left", lambda row: str(row.line.get("left", ""))),
        Column("gone after, s", lambda row: row.number("left_seconds", ".1f")),
        Column("GPUs then, GiB", _gpus),
        Column("the next prompt", _next),
    ),
    title=lambda row: f"Distribute, {row.name('fault')}",
    told=None,
)
