"""One checkpoint, opened once: what it is, and every weight it holds.

Its headers have been read, nothing else. Everything that loads, converts or describes a checkpoint
takes it in this form.
"""

import math
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar

from ..config import DiTConfig, Kind, VaeConfig
from ..errors import CheckpointError
from ..presets import Distilled, recognise
from ..quant import WeightFormat
from ..vae.preview import PreviewVaeConfig
from .entries import WeightEntry, asks_for_full_precision, formats_of
from .files import Expert, OpenFiles, open_files
from .gguf_layout import whole_shapes
from .grouping import group
from .keymap import PART_PREFIXES, Component, short_names
from .models import COMPONENTS, ComponentKind, identify, label_of
from .sizes import Clues, Config, TextEncoderConfig, variant_of
from .source import RawTensor

Wanted = TypeVar("Wanted", DiTConfig, VaeConfig, TextEncoderConfig)


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint is."""

    path: Path
    component: Component
    config: Config
    kind: Kind | None
    """Of a diffusion model: T2V, I2V or TI2V."""
    variant: str
    """One of "A14B", "5B", "Wan2.1", "Wan2.2", "umT5-xxl", or sizes: "dim 256, 3 layers"."""
    expert: Expert | None
    """Of an A14B-like model: a guess from the file name. The tensors do not tell."""
    formats: tuple[WeightFormat, ...]
    """Of the matrices that make up the model's size, that of most weights first."""
    bytes: int
    parameters: int
    remarks: tuple[str, ...] = ()
    """For people: what the file holds that is not used."""
    full_precision: bool = False
    """Whether it asks for all quantized weights of its blocks to be dequantized for matmuls."""
    distilled: Distilled | None = None
    """Of a diffusion model that is made for few steps: what it is."""

    @property
    def format(self) -> str:
        """For people: "fp32", "bf16", "fp8 scaled", "mixed (fp8 scaled, bf16)"."""
        names = [weight_format.name for weight_format in self.formats]
        return names[0] if len(names) == 1 else f"mixed ({', '.join(names)})"

    @property
    def trained_sparse(self) -> bool:
        """Whether a model was trained with sparse attention: LightX2V's "NVFP4_Sparse" files.

        The tensors do not tell, the name does.
        """
        names = [weight_format.name for weight_format in self.formats]
        return (
            "nvfp4" in names
            and re.search(r"nvfp4[ _.-]*sparse", self.path.name.lower()) is not None
        )

    @property
    def label(self) -> str:
        """One line for people: "I2V-A14B, high noise, fp8 scaled"."""
        variant = self.variant.replace("Wan2", "Wan 2")
        if isinstance(self.config, PreviewVaeConfig):
            name = f"{self.config.family} preview VAE for {variant}"
            limits = "" if self.config.encoder_dim else ", decoder only"
            return f"{name} ({self.config.z_dim} channels){limits}, {self.format}"
        what = self.kind.upper() if self.kind else label_of(type(self.config))
        if variant.startswith("dim "):
            name = f"{what} ({variant})"
        else:
            name = f"{what}-{variant}" if self.kind else f"{variant} {what}"
        expert = f", {self.expert} noise" if self.expert else ""
        return f"{name}{expert}, {self.format}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A part of Wan2.2 on disk."""

    folder: Path | None
    """The folder that belongs to this checkpoint alone, or None for a file among others."""
    is_gguf: bool
    info: CheckpointInfo
    kind: ComponentKind
    entries: dict[str, WeightEntry]
    """By official name."""
    extras: dict[str, RawTensor]
    """Tensors that are no weights: notes, an embedded tokenizer."""
    metadata: dict[str, str]

    @property
    def path(self) -> Path:
        """As given: a file, an index or a folder."""
        return self.info.path

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that hold its weights."""
        parts = (part.raw for entry in self.entries.values() for part in entry.parts.values())
        return tuple(sorted({part.file for part in parts}))

    def require(self, wanted: type[Wanted]) -> Wanted:
        """Returns the sizes of a checkpoint that must be of one component.

        Args:
            wanted: the component, by the type of its sizes.

        Raises:
            CheckpointError: says what the file is instead.
        """
        if isinstance(self.info.config, wanted):
            return self.info.config
        raise CheckpointError(
            f"{self.path.name} is the wrong kind of file. Got a "
            f"{label_of(type(self.info.config))} ({self.info.label}), need a {label_of(wanted)}. "
            "Choose another file here."
        )


CheckpointLike = Checkpoint | str | PathLike[str]
"""An opened checkpoint, or the path of one: a .safetensors or .gguf file, a shard or the index of a
sharded one, or a folder with one."""


def detect(path: CheckpointLike) -> CheckpointInfo:
    """Describes a checkpoint without loading it; of an all-in-one file, its transformer.

    Raises:
        CheckpointError: for a file that is damaged, unsafe, or no part of Wan2.2; it names what
            was found instead.
    """
    return open_checkpoint(path).info


def open_checkpoint(path: CheckpointLike, part: Component = "dit") -> Checkpoint:
    """Opens a checkpoint; one that is open already is returned as it is.

    Args:
        path: see `CheckpointLike`.
        part: which one to take of a file that holds several, see `short_names`.

    Raises:
        CheckpointError: for anything that is not one whole, healthy part of Wan2.2.
    """
    if isinstance(path, Checkpoint):
        return path
    path = Path(path)
    files = open_files(path)
    short = short_names([raw.name for raw in files.tensors], part)
    named = [(name, raw) for raw in files.tensors if (name := short(raw.name)) is not None]
    if files.tensors and not named:
        what = next(kind.label for kind in COMPONENTS if kind.component == part)
        raise CheckpointError(
            f"{path.name} is an all-in-one file without a {what}. Got no tensors named "
            f"{' or '.join(PART_PREFIXES[part])}..., need those. Choose a separate file here."
        )
    kind, spelling, tensors = identify(path.name, named)
    if files.is_gguf and kind.component == "dit":
        tensors = whole_shapes(path.name, tensors)

    def official(key: str) -> str | None:
        name = short(key)
        return None if name is None else spelling.official(name)

    entries, extras, remarks = group(path.name, kind.component, tensors, files.metadata, official)
    config = kind.read_config(Clues(path.name, entries, files.config_json))
    variant = variant_of(config)
    dit_kind = config.kind if isinstance(config, DiTConfig) else None
    return Checkpoint(
        folder=files.folder,
        is_gguf=files.is_gguf,
        kind=kind,
        entries=entries,
        extras=extras,
        metadata=files.metadata,
        info=CheckpointInfo(
            path=path,
            component=kind.component,
            config=config,
            kind=dit_kind,
            variant=variant,
            expert=files.expert if dit_kind in ("t2v", "i2v") else None,
            formats=formats_of(entries.values()),
            bytes=sum(raw.nbytes for raw in tensors.values()),
            parameters=sum(math.prod(entry.shape) for entry in entries.values()),
            remarks=remarks,
            full_precision=asks_for_full_precision(entries.values()),
            distilled=_distilled(path, files) if dit_kind else None,
        ),
    )


def _distilled(path: Path, files: OpenFiles) -> Distilled | None:
    name = path.name if files.folder is None else f"{files.folder.name}/{path.name}"
    return recognise(name, "model", files.metadata, [raw.name for raw in files.tensors])
