"""The umT5 text encoder, loaded through ComfyUI's own implementation.

Matrices of GGUF files stay packed in it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.t5
import comfy.text_encoders.wan
import torch
from torch import Tensor

from ....wan_model.errors import CheckpointError
from ....wan_model.loading import Checkpoint, TextEncoderConfig
from ....wan_model.loading.entries import WeightEntry
from ....wan_model.loading.source import Reader
from ....wan_model.loading.text_encoder import text_encoder_entries
from ....wan_model.quant import PLAIN, WeightFormat
from ..host.runtime import embedding_folders
from .packed_linear import PackedClip, packed_operations
from .tokenizer import ENCODER_FILES, TOKENIZER, needed_tokenizer
from .umt5_tensors import core_reads, core_tensors

XXL = TextEncoderConfig(dim=4096, num_layers=24, num_heads=64, vocab_size=256384)
"""The umT5 that Wan uses; core's own loader knows no other."""
XXL_FFN = 10240

LINEARS = (
    *(f".SelfAttention.{name}.weight" for name in "qkvo"),
    *(f".DenseReluDense.{name}.weight" for name in ("wi_0", "wi_1", "wo")),
)
"""How the names of linear layers' weights end."""

ENCODER = "wanduet_text_encoder"
"""Attachment of a CLIP's patcher: a fingerprint of the file it came from."""


def load_clip(checkpoint: Checkpoint) -> comfy.sd.CLIP:
    """Loads a umT5 encoder as a CLIP that stock nodes take.

    Raises:
        CheckpointError: if it is not a whole umT5 encoder, or there is no tokenizer for it.
    """
    info, path = checkpoint.info, checkpoint.path
    sizes = info.config
    if not isinstance(sizes, TextEncoderConfig):
        raise CheckpointError(
            f"{path.name} is the wrong kind of file. Got {info.label}, need a umT5 text encoder. "
            f"Choose {ENCODER_FILES}."
        )
    entries = text_encoder_entries(checkpoint)
    tokenizer = needed_tokenizer(checkpoint, sizes.vocab_size)
    if checkpoint.is_gguf:
        clip = _load_packed_clip(entries, tokenizer, sizes)
    elif not (sizes == XXL and _is_cores(entries)):
        clip = _load_dense_clip(entries, tokenizer, sizes)
    elif core_reads(checkpoint):
        clip = comfy.sd.load_clip(
            ckpt_paths=[str(path)],
            embedding_directory=embedding_folders(),
            clip_type=comfy.sd.CLIPType.WAN,
        )
    else:
        clip = comfy.sd.load_text_encoder_state_dicts(
            [core_tensors(checkpoint, tokenizer)],
            embedding_directory=embedding_folders(),
            clip_type=comfy.sd.CLIPType.WAN,
        )
    clip.patcher.set_attachments(ENCODER, fingerprint(path))
    return clip


def _is_cores(entries: Mapping[str, WeightEntry]) -> bool:
    """Whether core's own loader builds these layers, and reads their formats."""
    wide = entries["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0]
    narrow = entries["encoder.block.0.layer.0.SelfAttention.q.weight"].shape[0]
    numbers = all(entry.format.dtype != torch.float64 for entry in entries.values())
    return (narrow, wide) == (XXL.dim, XXL_FFN) and numbers


def _load_dense_clip(
    entries: Mapping[str, WeightEntry], tokenizer: Tensor, sizes: TextEncoderConfig
) -> comfy.sd.CLIP:
    """Loads a file whose quantized weights become bf16; codes without a scale stay fp8."""
    read = Reader()
    tensors: dict[str, Tensor] = {}
    for name, entry in entries.items():
        stored = entry.read(read)
        plain = stored.format is PLAIN.get(stored.weight.dtype)
        tensors[name] = stored.weight if plain else stored.dequantize(torch.bfloat16)
    dtype = tensors["encoder.block.0.layer.0.SelfAttention.q.weight"].dtype
    options = {"dtype": torch.float32 if dtype == torch.float64 else dtype}
    return _load_sized_clip(tensors | {TOKENIZER: tokenizer}, sizes, options)


def _load_packed_clip(
    entries: Mapping[str, WeightEntry], tokenizer: Tensor, sizes: TextEncoderConfig
) -> comfy.sd.CLIP:
    """Loads a file of GGUF, of which matrices stay packed and all else becomes fp16."""
    read = Reader()
    tensors: dict[str, Tensor] = {}
    formats: dict[str, WeightFormat] = {}
    for name, entry in entries.items():
        stored = entry.read(read)
        if name.endswith(LINEARS):
            # No view of the file, which somebody may cut off while it is in use.
            tensors[name], formats[name] = stored.weight.clone(), stored.format
        else:
            tensors[name] = stored.dequantize(torch.float16)
    tensors[TOKENIZER] = tokenizer
    options = {"dtype": torch.float16, "custom_operations": packed_operations(formats)}
    return _load_sized_clip(tensors, sizes, options, PackedClip)


def _load_sized_clip(
    tensors: dict[str, Tensor],
    sizes: TextEncoderConfig,
    options: dict[str, Any],
    clip_class: type[comfy.sd.CLIP] = comfy.sd.CLIP,
) -> comfy.sd.CLIP:
    """Loads a umT5 that core's own loader does not recognise: of another size, or packed."""
    block = "encoder.block.0.layer"
    config = {
        "d_ff": tensors[f"{block}.1.DenseReluDense.wi_0.weight"].shape[0],
        "d_kv": tensors[f"{block}.0.SelfAttention.q.weight"].shape[0] // sizes.num_heads,
        "d_model": sizes.dim,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "model_type": "umt5",
        "num_heads": sizes.num_heads,
        "num_layers": sizes.num_layers,
        "vocab_size": sizes.vocab_size,
    }
    target = SimpleNamespace(
        params={},
        clip=_clip_class(config, tensors),
        tokenizer=comfy.text_encoders.wan.WanT5Tokenizer,
    )
    return clip_class(
        target,
        embedding_directory=embedding_folders(),
        tokenizer_data={TOKENIZER: tensors[TOKENIZER]},
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        model_options=options,
    )


def _clip_class(config: dict[str, Any], tensors: dict[str, Tensor]) -> type:
    """Returns core's umT5 model class with other sizes, which has these weights from the start.

    ComfyUI measures and may move a model before it gives it weights; packed ones have no size then.
    """

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None):
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=dict(config),
                special_tokens={"end": 1, "pad": 0},
                model_class=comfy.text_encoders.t5.T5,
                enable_attention_masks=True,
                zero_out_masked=True,
                model_options=model_options or {},
            )

    class Model(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None):
            super().__init__(
                device=device,
                dtype=dtype,
                model_options=model_options or {},
                name="umt5xxl",
                clip_model=Encoder,
            )
            self.load_sd(tensors)

    return Model


def fingerprint(path: Path) -> str:
    """Returns what identifies a file's content: size, time of change, its start and samples."""
    status = path.stat()
    size = status.st_size
    # A damage between the samples shows only in the time at which the file was put right.
    digest = hashlib.sha256(f"{size} {status.st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        for i in range(32):
            file.seek(size * i // 32)
            digest.update(file.read(1 << 14))
    return digest.hexdigest()
