"""The shipped files of the tiny Wan2.2."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from wan_model import load_dit, load_vae
from wan_model.config import Kind
from wan_model.dit import WanDiT
from wan_model.presets import AUTO, Distilled, Models, Settings, Values, choose, find_preset
from wan_model.quant import AS_STORED
from wan_model.vae import WanVae

from .loras import give_lora
from .text import PromptEncoder

EXPERTS: dict[Kind, tuple[str, str]] = {
    "t2v": ("wan22-tiny-t2v-high-noise", "wan22-tiny-t2v-low-noise"),
    "i2v": ("wan22-tiny-i2v-high-noise", "wan22-tiny-i2v-low-noise"),
    "ti2v": ("wan22-tiny-ti2v", "wan22-tiny-ti2v"),
}
VAES: dict[Kind, str] = {
    "t2v": "wan22-tiny-wan21-vae",
    "i2v": "wan22-tiny-wan21-vae",
    "ti2v": "wan22-tiny-wan22-vae",
}
TEXT_ENCODER = "wan22-tiny-umt5"
LORA = "wan22-tiny-{kind}-lightning-{expert}-noise"
"""Of T2V and I2V."""

SIZE_PX = 128
"""Of videos, if a file does not say for what size it is trained."""


@dataclass(frozen=True)
class TinyWan:
    """All models that one kind of video takes."""

    kind: Kind
    experts: tuple[WanDiT, WanDiT]
    """For high and for low noise; the same one twice for TI2V."""
    vae: WanVae
    encode_prompts: PromptEncoder
    size_px: int
    """Height and width of the videos that it is trained on."""
    distilled: tuple[Distilled | None, Distilled | None] = (None, None)
    """What LoRAs make of the experts."""
    plain_high: WanDiT | None = None
    """The first expert without its LoRA, for first steps."""
    preset: str = AUTO
    guidance: float | None = None
    """At all noise levels, in the place of what the models want."""

    def settings(self, steps: int | None = None) -> Settings:
        """Returns what it is sampled with: as the preset, its LoRAs or the official code have it.

        Args:
            steps: None: as many as they want.
        """
        high, low = ([found] if found else [] for found in self.distilled)
        models = Models(kind=self.kind, high=high, low=None if self.kind == "ti2v" else low)
        return choose(
            models,
            Values(steps=steps, cfg_high=self.guidance, cfg_low=self.guidance),
            find_preset(self.preset),
        )[0]


def load_tiny(
    models: Path,
    kind: Kind,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: str = AS_STORED,
    loras: Path | None = None,
    preset: str = AUTO,
    guidance: float | None = None,
) -> TinyWan:
    """Loads the models of one kind.

    Args:
        models: folder with the files, in whatever subfolders.
        kind: "t2v", "i2v" or "ti2v".
        device: of all of them.
        dtype: in which the transformers' blocks and the VAE compute; prompts always in fp32.
        weights: format of the blocks' weights and matmuls, as `load_dit` takes it.
        loras: folder with the 4-step LoRAs, which each expert gets its own of. None: without.
        preset: what it is sampled with, by name.
        guidance: scale at all noise levels. None: as the models want it.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    files = [find_file(models, name) for name in dict.fromkeys(EXPERTS[kind])]
    dits = [load_dit(file, device=device, dtype=dtype, weights=weights) for file in files]
    distilled, plain_high = (None, None), dits[0]
    if loras is not None:
        plain_high = load_dit(files[0], device=device, dtype=dtype, weights=weights)
        found = [find_file(loras, LORA.format(kind=kind, expert=name)) for name in ("high", "low")]
        distilled = (give_lora(dits[0], found[0]), give_lora(dits[1], found[1]))
    return TinyWan(
        kind,
        (dits[0], dits[-1]),
        load_tiny_vae(models, kind, device=device, dtype=dtype),
        PromptEncoder(find_file(models, TEXT_ENCODER), device),
        trained_size_px(files[0]),
        distilled,
        plain_high,
        preset,
        guidance,
    )


def load_tiny_vae(
    models: Path,
    kind: Kind,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> WanVae:
    """Loads the VAE of one kind; arguments and errors as `load_tiny`."""
    return load_vae(find_file(models, VAES[kind]), device=device, dtype=dtype)


def trained_size_px(file: Path) -> int:
    """Returns height and width of the videos that a transformer is trained on."""
    with safe_open(file, framework="pt") as content:
        return int((content.metadata() or {}).get("size_px", SIZE_PX))


def find_file(models: Path, name: str) -> Path:
    """Returns the file with a name, whatever its suffix, below a folder.

    Raises:
        FileNotFoundError: if there is none, or more than one.
    """
    found = sorted(path for path in models.rglob(f"{name}.*") if path.stem == name)
    if len(found) != 1:
        raise FileNotFoundError(
            f"The tiny model's {name} cannot be chosen. Got {len(found)} files of that name below "
            f"{models}, need one. Give the folder that holds the files wan22-tiny-..."
        )
    return found[0]
