"""`python -m wan_model.convert FILE`: writes FILE as safetensors, in a format of one's choice."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import DiTConfig
from ..errors import CheckpointError, WanError
from ..loading import Checkpoint, open_checkpoint
from ..loading.files import PICKLE_SUFFIXES, is_pickle
from ..loading.keymap import Component
from ..loading.source import Reader, ShapesOnly
from ..quant.gguf_formats import GgufFormat
from ..writing.export import (
    EXPORTS,
    METADATA,
    NamedWeight,
    export_checkpoint,
    find_export,
)
from ..writing.writer import FileLayout, weight_tensors, write_checkpoint
from .pickled import rewrite

GIB = 1 << 30
AS_IT_IS = "as it is"
PARTS: dict[str, Component] = {"model": "dit", "vae": "vae", "text-encoder": "text_encoder"}

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts one file; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    target = options.output or options.file.with_suffix("").with_name(
        f"{options.file.name.removesuffix(options.file.suffix)}{_ending(options)}{_suffix(options)}"
    )
    try:
        if target.exists():
            raise CheckpointError(
                f"{target} exists already. Got a name that is taken, need a free one. Name another "
                "with --output."
            )
        _convert(options, target)
    except (WanError, OSError) as error:
        log.error("%s", error)
        return 1
    log.info("Wrote %s: %.2f GiB", target, target.stat().st_size / GIB)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wan_model.convert",
        description="Writes a model file as safetensors or GGUF. Pickled files (.pth, .pt, .ckpt, "
        ".bin) are read by another process, which runs nothing that is in them.",
    )
    parser.add_argument("file", type=Path, help="what to convert")
    parser.add_argument("--output", type=Path, help="the file to write; default: beside the other")
    names = [AS_IT_IS, *(one.name for one in EXPORTS)]
    parser.add_argument(
        "--format", choices=names, default=AS_IT_IS, help="of a transformer's weights"
    )
    parser.add_argument(
        "--part", choices=list(PARTS), default="model", help="of an all-in-one file"
    )
    parser.add_argument("--device", default="cpu", help="that computes: cpu, cuda")
    parser.add_argument(
        "--memory", type=float, default=8.0, help="GiB that reading a pickled file may take"
    )
    return parser


def _ending(options: argparse.Namespace) -> str:
    part = "" if options.part == "model" else f"_{options.part}"
    name = "" if options.format == AS_IT_IS else f"_{options.format.replace(' ', '_')}"
    plain = options.file.suffix.lower() not in PICKLE_SUFFIXES and not part + name
    return "_converted" if plain else part + name


def _suffix(options: argparse.Namespace) -> str:
    return ".safetensors" if options.format == AS_IT_IS else find_export(options.format).suffix


def _convert(options: argparse.Namespace, target: Path) -> None:
    source: Path = options.file
    if not source.is_file():
        _write(open_checkpoint(source, PARTS[options.part]), options, target)
        return
    with source.open("rb") as stream:
        pickled = is_pickle(source, stream.read(16))
    if not pickled:
        _write(open_checkpoint(source, PARTS[options.part]), options, target)
        return
    log.info("Reading %s in a process of its own", source.name)
    # Beside the target, where there is room, and which a rename does not leave.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as folder:
        plain = Path(folder) / f"{source.stem}.safetensors"
        rewrite(source.resolve(), plain, int(options.memory * GIB))
        if options.format == AS_IT_IS:
            plain.rename(target)
        else:
            _write(open_checkpoint(plain), options, target)


def _write(checkpoint: Checkpoint, options: argparse.Namespace, target: Path) -> None:
    log.info("Found %s", checkpoint.info.label)
    if options.format != AS_IT_IS:
        checkpoint.require(DiTConfig)
        outline, weights = _weights(checkpoint, None), _weights(checkpoint, options.device)
        export_checkpoint(target, outline, weights, find_export(options.format), _progress)
        return
    layout = FileLayout.of(_tensors(checkpoint, ShapesOnly()))
    write_checkpoint(target, layout, _tensors(checkpoint, Reader()), METADATA)


def _weights(checkpoint: Checkpoint, device: str | None) -> Iterator[NamedWeight]:
    """Yields weights on a device; None for shapes alone."""
    read = ShapesOnly() if device is None else Reader()
    for entry in checkpoint.entries.values():
        stored = entry.read(read)
        yield entry.name, stored if device is None else stored.to(torch.device(device))


def _tensors(checkpoint: Checkpoint, read: Reader) -> Iterator[tuple[str, Tensor]]:
    """Yields a part's tensors by official name, with the codes and scales that it has.

    Blocks of GGUF become 16 bit.
    """
    for entry in checkpoint.entries.values():
        stored = entry.read(read)
        if isinstance(entry.format, GgufFormat):  # whose blocks no safetensors holds
            yield entry.name, stored.dequantize(torch.bfloat16)
        elif stored.weight_scale is not None:
            yield from weight_tensors(entry.layer, stored)
        else:
            yield entry.name, stored.weight
    for name, raw in checkpoint.extras.items():
        if name == "spiece_model":
            yield name, read(raw, torch.uint8)


def _progress(done: int, total: int) -> None:
    if done % max(1, total // 20) == 0:
        log.info("%3d %%", 100 * done // total)


if __name__ == "__main__":
    sys.exit(main())
