"""The strict match of a umT5 encoder's file and its layers, which the host builds itself."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint import Checkpoint
from .encodings import FLOATS
from .entries import WeightEntry
from .load import check_shapes
from .sizes import TextEncoderConfig
from .source import RawTensor, Reader, check_finite, first_names, shown

TABLE, TABLE_AGAIN = "shared.weight", "encoder.embed_tokens.weight"
"""The embedding of tokens, and what some tools call it or save besides."""

ATTENTION, FEED_FORWARD = "layer.0.SelfAttention", "layer.1.DenseReluDense"

BIAS_BUCKETS = 32
"""Distances that the position bias tells apart: `relative_attention_num_buckets` of umT5."""

OTHER_PARTS = ("decoder.", "lm_head.")
"""Of a whole T5, which has a decoder: not used."""


def text_encoder_entries(checkpoint: Checkpoint) -> dict[str, WeightEntry]:
    """Returns the weights of a umT5 encoder by transformers' names, checked as a model is.

    Raises:
        CheckpointError: for another kind of file, for names or shapes that are not exactly those of
            a umT5 encoder, and for scales that are broken or of a wrong shape.
    """
    sizes = checkpoint.require(TextEncoderConfig)
    found = checkpoint.entries
    entries = {name: entry for name, entry in found.items() if not name.startswith(OTHER_PARTS)}
    again = entries.pop(TABLE_AGAIN, None)
    if again is not None:
        entries.setdefault(TABLE, again)
    check_shapes(_shapes(checkpoint, sizes, entries), checkpoint, entries)
    read = Reader()
    for entry in entries.values():
        entry.read(read)
    for raw in checkpoint.extras.values():
        _check_extra(raw, read)
    return entries


def tokenizer_bytes(raw: RawTensor) -> Tensor:
    """Returns a tokenizer that is kept as a tensor: its bytes, uint8.

    Raises:
        CheckpointError: if it is anything else.
    """
    if raw.stored_dtype not in ("U8", "I8") or len(raw.shape) != 1:
        raise CheckpointError(
            f"{raw.file.name} has a damaged tokenizer. Got {raw.stored_dtype} of shape "
            f"{shown(list(raw.shape))} for {shown(raw.name)}, need a row of bytes. Download the "
            "file again."
        )
    return Reader()(raw, torch.uint8)


def _shapes(
    checkpoint: Checkpoint, sizes: TextEncoderConfig, entries: Mapping[str, WeightEntry]
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all tensors; two widths are read from the first block."""
    dim, heads = sizes.dim, sizes.num_heads
    widths: list[int] = []
    layers = [f"encoder.block.0.{part}" for part in (f"{ATTENTION}.q", f"{FEED_FORWARD}.wi_0")]
    for layer in layers:
        entry = entries.get(f"{layer}.weight")
        widths.append(entry.shape[0] if entry and entry.shape else 0)
    inner, wide = widths
    if 0 in widths or inner % heads:
        raise CheckpointError(
            f"{checkpoint.path.name} is not a complete umT5 encoder. Got {inner} and {wide} rows "
            f"for {first_names(layers)}, need both, the first a multiple of {heads} heads. "
            "Download the file again."
        )
    block = {
        **dict.fromkeys([f"{ATTENTION}.{part}.weight" for part in "qkv"], (inner, dim)),
        f"{ATTENTION}.o.weight": (dim, inner),
        f"{ATTENTION}.relative_attention_bias.weight": (BIAS_BUCKETS, heads),
        **dict.fromkeys(
            [f"{FEED_FORWARD}.{part}.weight" for part in ("wi_0", "wi_1")], (wide, dim)
        ),
        f"{FEED_FORWARD}.wo.weight": (dim, wide),
        **dict.fromkeys(["layer.0.layer_norm.weight", "layer.1.layer_norm.weight"], (dim,)),
    }
    return {
        TABLE: (sizes.vocab_size, dim),
        **{
            f"encoder.block.{number}.{name}": shape
            for number in range(sizes.num_layers)
            for name, shape in block.items()
        },
        "encoder.final_layer_norm.weight": (dim,),
    }


def _check_extra(raw: RawTensor, read: Reader) -> None:
    """Refuses scales of activations that are no finite number; the host may use them."""
    if not raw.name.endswith(("input_scale", "scale_input")):
        return
    dtype = FLOATS.get(raw.stored_dtype)
    if dtype is None or raw.shape not in ((), (1,)):
        raise CheckpointError(
            f"{raw.file.name} holds a broken scale. Got {raw.stored_dtype} of shape "
            f"{shown(list(raw.shape))} in {shown(raw.name)}, need one finite number. Download the "
            "file again, or choose another version of it."
        )
    check_finite(raw, read(raw, dtype))
