"""One case of the fuzzer: a broken file, opened, built and used as a person would."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from tests.fuzz.mutations import spoiled
from tests.fuzz.originals import Reads, originals, small_dit
from tests.fuzz.watch import watched
from wan_model.config import DiTConfig
from wan_model.errors import WanError
from wan_model.loading import load_dit, load_vae, open_checkpoint
from wan_model.loading.files import is_gguf
from wan_model.loading.gguf_tokenizer import sentencepiece_model
from wan_model.loading.text_encoder import text_encoder_entries, tokenizer_bytes
from wan_model.lora import LoraModules, open_lora
from wan_model.vae import WanVae

CPU_S = 2.0
"""More than any of these files, which have less than 5 MB, may take; a case takes 20 ms."""

MEMORY_BYTES, MEMORY_TIMES = 64 << 20, 3
"""So much, and so many times its size, a file may take."""

MESSAGE_BYTES = 2000


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    number: int
    kind: str
    ended: str
    """"used", or "refused"; anything else is a find."""
    said: str = ""

    @property
    def found(self) -> bool:
        """Whether something is wrong."""
        return self.ended not in ("used", "refused")


def run_case(number: int, folder: Path) -> Outcome:
    """Runs one case.

    Args:
        number: makes the case; the same one is the same case.
        folder: empty, and again empty afterwards.
    """
    random = Random(number)
    kind = random.choice(list(originals()))
    original = originals()[kind]
    place = folder / "case"
    place.mkdir()
    (folder / "outside.safetensors").write_bytes(originals()["transformer"].files["m.safetensors"])
    try:
        victim = random.choice(original.broken or list(original.files))
        for name, data in original.files.items():
            content = spoiled(name, data, random) if name == victim else data
            (place / name).write_bytes(content)
        size = sum(file.stat().st_size for file in place.iterdir())
        chosen = random.choice(original.chosen)
        reads = random.choice(original.reads)
        if random.random() < 0.05:
            reads = random.choice(("dit", "vae", "text_encoder", "lora"))
        return _judged(number, f"{kind} as {reads}", place, place / chosen, reads, size)
    finally:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _judged(number: int, kind: str, place: Path, path: Path, reads: Reads, size: int) -> Outcome:
    ended, said = "used", ""
    with watched(place) as seen:
        try:
            USES[reads](path)
        except WanError as error:
            ended, said = "refused", str(error)
        except Exception as error:  # noqa: BLE001 - what this looks for
            ended, said = f"{type(error).__name__} in {_where(error)}", str(error)
    if ended == "refused":
        ended = _form(said) or ended
    if seen.cpu_s > CPU_S:
        ended = f"{seen.cpu_s:.1f} s of CPU"
    if seen.peak_bytes > MEMORY_BYTES + MEMORY_TIMES * size:
        ended = f"{seen.peak_bytes >> 20} MiB for {size} bytes"
    if seen.outside:
        ended, said = "touched other files", "; ".join(seen.outside[:3])
    return Outcome(number, kind, ended, said[:500])


def _where(error: BaseException) -> str:
    """Returns the innermost place in the library that an error comes from."""
    place, trace = "?", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "wan_model" in file.parts:
            place = f"{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _form(message: str) -> str | None:
    """Returns what is wrong with a message."""
    if len(message.encode()) > MESSAGE_BYTES:
        return f"a message of {len(message.encode())} bytes"
    if not (" Got " in message and " need " in message and message.endswith(".")):
        return "a message without form"
    if not message.isprintable():
        return "a message with control characters"
    return None


def _use_dit(path: Path) -> None:
    model = load_dit(path)
    config = model.config
    assert isinstance(config, DiTConfig)
    latent = torch.zeros(1, config.out_channels, 1, 2, 2)
    extra = config.in_channels - config.out_channels
    cond = torch.zeros(1, extra, 1, 2, 2) if extra > 0 else None
    with torch.inference_mode():
        model(latent, torch.tensor([500.0]), torch.zeros(1, 4, config.text_dim), cond)


def _use_vae(path: Path) -> None:
    vae: WanVae = load_vae(path, dtype=torch.float32)
    with torch.inference_mode():
        vae.decode(torch.zeros(1, vae.config.z_dim, 1, 1, 1))


def _use_text_encoder(path: Path) -> None:
    checkpoint = open_checkpoint(path, "text_encoder")
    text_encoder_entries(checkpoint)
    raw = checkpoint.extras.get("spiece_model")
    if raw is not None:
        tokenizer_bytes(raw)
    elif is_gguf(path):
        sentencepiece_model(path)


def _use_lora(path: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in _dit().items()}
    translated = LoraModules(open_lora(path)).translate(shapes, None)
    for name, changes in translated.changes.items():
        weight = torch.zeros(shapes[name])
        for change in changes:
            weight = change.applied(weight, 0.5)
        assert tuple(weight.shape) == shapes[name]


_DIT: dict[str, Tensor] = {}


def _dit() -> dict[str, Tensor]:
    if not _DIT:
        _DIT.update(small_dit())
    return _DIT


USES = {
    "dit": _use_dit,
    "vae": _use_vae,
    "text_encoder": _use_text_encoder,
    "lora": _use_lora,
}
