"""The umT5 text encoder, through ComfyUI's own implementation."""

import hashlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.t5
import comfy.text_encoders.wan
import comfy.utils
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...wan_model.config import TEXT_LEN
from ...wan_model.errors import CheckpointError, PairingError
from ...wan_model.loading import TextEncoderConfig, detect
from ...wan_model.prompt import clean_prompt, cut_tokens
from ...wan_model.quant import scale_weight
from .host import cache_folder, embedding_folders

logger = logging.getLogger(__name__)

CACHE_BYTES = 256 << 20
"""Embeddings kept on disk; a prompt takes 4 to 8 MiB at most, the longest unused go first."""

ENCODER = "wanduet_text_encoder"
"""Attachment of a CLIP's patcher: a fingerprint of the file it came from."""


def load_clip(path: Path) -> comfy.sd.CLIP:
    """Loads a umT5 encoder as a CLIP that stock nodes take.

    Raises:
        CheckpointError: if it is not a umT5 encoder, or one without its tokenizer.
    """
    info = detect(path)
    if not isinstance(info.config, TextEncoderConfig):
        raise CheckpointError(
            f"{path.name} is not a text encoder. Got {info.label}, need a umT5 encoder. Choose "
            "umt5_xxl_fp8_e4m3fn_scaled.safetensors or umt5_xxl_fp16.safetensors."
        )
    if info.config.dim == 4096:
        clip = comfy.sd.load_clip(
            ckpt_paths=[str(path)],
            embedding_directory=embedding_folders(),
            clip_type=comfy.sd.CLIPType.WAN,
        )
    else:
        clip = _load_small_clip(path, info.config)
    clip.patcher.set_attachments(ENCODER, fingerprint(path))
    return clip


def _load_small_clip(path: Path, sizes: TextEncoderConfig) -> comfy.sd.CLIP:
    """Loads a umT5 of another size than xxl, which core's own loader does not recognise."""
    tensors = dict(comfy.utils.load_torch_file(str(path)))
    if "spiece_model" not in tensors:
        raise CheckpointError(
            f"{path.name} has no tokenizer. Got no tensor spiece_model, need the sentencepiece "
            "model inside the file. Choose a file made for ComfyUI."
        )
    dtype = _dequantise(tensors)
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
        clip=_clip_class(config),
        tokenizer=comfy.text_encoders.wan.WanT5Tokenizer,
    )
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=embedding_folders(),
        tokenizer_data={"spiece_model": tensors["spiece_model"]},
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        model_options={"dtype": dtype},
    )
    missing, _ = clip.load_sd(tensors)
    if missing:
        raise CheckpointError(
            f"{path.name} is incomplete. Got no {', '.join(missing[:4])}, need a whole umT5 "
            "encoder. Download the file again."
        )
    return clip


def _clip_class(config: dict[str, Any]) -> type:
    """Returns core's umT5 model class with other sizes."""

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

    return Model


def _dequantise(tensors: dict[str, Tensor]) -> torch.dtype:
    """Turns scaled fp8 weights into bf16, in place; returns the dtype of the weights."""
    for name in [name for name in tensors if name.endswith((".scale_weight", ".weight_scale"))]:
        weight = name.rpartition(".")[0] + ".weight"
        scale = tensors.pop(name).float()
        tensors[weight] = scale_weight(tensors[weight], scale).to(torch.bfloat16)
    return tensors["encoder.block.0.layer.0.SelfAttention.q.weight"].dtype


def fingerprint(path: Path) -> str:
    """Returns what identifies a file's content: its size, its start and samples from all of it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        for i in range(32):
            file.seek(size * i // 32)
            digest.update(file.read(1 << 14))
    return digest.hexdigest()


def encode(clip: comfy.sd.CLIP, text: str) -> tuple[Tensor, str | None]:
    """Encodes a prompt as the official code does, or takes it from the disk cache.

    Args:
        clip: a umT5 encoder, from our loader or core's.
        text: as the user wrote it; parentheses and colons are text, not weights.

    Returns:
        Embedding fp32 (1, 512, dim), zero beyond the prompt, and a warning if the prompt was cut.

    Raises:
        PairingError: if the CLIP is not a umT5 encoder.
    """
    if getattr(clip.tokenizer, "clip_name", None) != "umt5xxl":
        raise PairingError(
            f"This CLIP is no umT5 encoder. Got {type(clip.tokenizer).__name__}, need umT5. "
            "Connect 'Load Wan text encoder', or core's CLIPLoader with type 'wan'."
        )
    tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip).tokenizer
    tokens = tokenizer(clean_prompt(text))["input_ids"]
    kept = cut_tokens(tokens)
    warning = None
    if len(kept) < len(tokens):
        warning = (
            f"The prompt was cut: it has {len(tokens)} tokens, Wan reads {TEXT_LEN}. "
            "What comes last in it has no effect."
        )
        logger.warning(warning)
    file = _cache_file(clip, kept)
    if file is not None and file.is_file():
        file.touch()
        embedding = load_file(file)["embedding"]
    else:
        pairs = {"umt5xxl": [[(token, 1.0) for token in kept]]}
        embedding = clip.encode_from_tokens(pairs).float().cpu()[:, : len(kept)]
        if file is not None:
            _store(file, embedding)
    return F.pad(embedding, (0, 0, 0, TEXT_LEN - embedding.shape[1])), warning


def _cache_file(clip: comfy.sd.CLIP, tokens: list[int]) -> Path | None:
    """Returns where an embedding is kept; None for an encoder of unknown origin or with LoRAs."""
    identity = clip.patcher.get_attachment(ENCODER)
    if identity is None or clip.patcher.patches or clip.layer_idx is not None:
        return None
    precision = next(clip.cond_stage_model.parameters()).dtype
    key = f"{identity} {precision} {clip.patcher.load_device.type} {tokens}"
    name = hashlib.sha256(key.encode()).hexdigest()
    return cache_folder() / "text_embeddings" / f"{name}.safetensors"


def _store(file: Path, embedding: Tensor) -> None:
    """Writes an embedding whole or not at all, and makes room. A full disk is no error."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file({"embedding": embedding.contiguous()}, part)
        part.replace(file)
        others = sorted(file.parent.glob("*.safetensors"), key=lambda f: -f.stat().st_mtime)
        total = 0
        for other in others:
            total += other.stat().st_size
            if total > CACHE_BYTES:
                other.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("The text embedding was not kept on disk: %s", error)
