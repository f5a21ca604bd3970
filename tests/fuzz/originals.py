"""Healthy files of every kind, as small as their kind allows: what the fuzzer begins with."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from tests.toy.make_checkpoints import make_dit, make_text_encoder, make_vae, scale_to_fp8
from wan_model.vae.preview import PreviewVaeConfig, build_preview_vae

State = dict[str, Tensor]
Reads = Literal["dit", "vae", "text_encoder", "lora"]

DIM, TEXT_DIM = 128, 64
INDEX = "m.safetensors.index.json"
PARTS = {
    "model.diffusion_model.": "dit",
    "vae.": "vae",
    "text_encoders.umt5xxl.transformer.": "text_encoder",
}
"""Prefixes of an all-in-one file."""


@dataclass(frozen=True)
class Original:
    """Files that belong together."""

    files: Mapping[str, bytes]
    """By name."""
    chosen: tuple[str, ...]
    """What a person may choose of them; "" is the folder."""
    reads: tuple[Reads, ...] = ("dit",)
    """As what it is opened."""
    broken: tuple[str, ...] = ()
    """Which of the files may be broken; all if empty."""


def small_dit(kind: Literal["t2v", "i2v", "ti2v"] = "t2v") -> State:
    """Returns a transformer of one block."""
    return make_dit(kind, "fuzz", dim=DIM, ffn_dim=DIM, layers=1, text_dim=TEXT_DIM)


@cache
def originals() -> dict[str, Original]:
    """Returns all of them by kind, made once."""
    dit, umt5 = small_dit(), make_text_encoder("fuzz", dim=32)
    vae = make_vae("2.1", "fuzz", encoder=4, decoder=4)
    shards = _shards(dit)
    bundle = dict(zip(PARTS, (dit, vae, umt5), strict=True))
    whole = {
        prefix + name: value for prefix, part in bundle.items() for name, value in part.items()
    }
    spiece = whole.pop("text_encoders.umt5xxl.transformer.spiece_model")
    whole["text_encoders.spiece_model"] = spiece
    config = json.dumps({"num_heads": 1, "dim": DIM, "model_type": "t2v"}).encode()
    one, preview = "m.safetensors", "taew2_1.safetensors"
    return {
        "transformer": Original({one: save(dit, {"format": "pt"})}, (one,)),
        "i2v": Original({one: save(small_dit("i2v"))}, (one,)),
        "scaled fp8": Original({one: save(scale_to_fp8(dit, "scaled_fp8"))}, (one,)),
        "noted fp8": Original({one: save(scale_to_fp8(dit, "comfy_quant"))}, (one,)),
        "sharded": Original({**shards, "config.json": config}, ("", *shards)),
        "index": Original(shards, tuple(shards), broken=(INDEX,)),
        "folder": Original({one: save(dit), "config.json": config}, ("",)),
        "config": Original(
            {one: save(dit), "config.json": config}, ("", one), broken=("config.json",)
        ),
        "umT5": Original({one: save(umt5)}, (one,), ("text_encoder",)),
        "VAE": Original({one: save(vae)}, (one,), ("vae",)),
        "Wan2.2 VAE": Original(
            {one: save(make_vae("2.2", "fuzz", encoder=4, decoder=4))}, (one,), ("vae",)
        ),
        "preview VAE": Original({preview: save(_preview())}, (preview,), ("vae",)),
        "GGUF": Original({"m.gguf": _gguf(dit, "Q4_0")}, ("m.gguf",)),
        "GGUF umT5": Original({"m.gguf": _gguf(umt5, "Q8_0")}, ("m.gguf",), ("text_encoder",)),
        **{
            f"LoRA, {kind}": Original({one: save(state, {"ss_alpha": "4"})}, (one,), ("lora",))
            for kind, state in _loras().items()
        },
        "all in one": Original({one: save(whole)}, (one,), ("dit", "vae", "text_encoder")),
    }


def _shards(state: State) -> dict[str, bytes]:
    names = [f"m-0000{i}-of-00002.safetensors" for i in (1, 2)]
    keys = list(state)
    parts = [{key: state[key] for key in keys[i::2]} for i in range(2)]
    places = {key: names[i] for i, part in enumerate(parts) for key in part}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": places}).encode()
    return {
        **{name: save(part) for name, part in zip(names, parts, strict=True)},
        INDEX: index,
    }


def _preview() -> State:
    config = PreviewVaeConfig(
        variant="wan2.1",
        encoder_dim=8,
        decoder_dim=8,
        z_dim=16,
        stage_dims=(8, 8, 8),
        family="TAEHV",
    )
    with torch.device("meta"):
        shapes = {
            name: value.shape for name, value in build_preview_vae(config).state_dict().items()
        }
    return {name: torch.full(shape, 0.01) for name, shape in shapes.items()}


def _gguf(state: State, kind: str) -> bytes:
    from tests.toy.gguf_files import write_dit, write_umt5

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.gguf"
        (write_umt5 if "shared.weight" in state else write_dit)(file, state, kind)
        return file.read_bytes()


def _loras() -> dict[str, State]:
    """Returns LoRAs of every kind for one block."""
    layers = [f"diffusion_model.blocks.0.self_attn.{layer}" for layer in "qkvo"]
    thin, tall, square = torch.ones(4, DIM), torch.ones(DIM, 4), torch.eye(4)
    kinds: dict[str, State] = {
        "low rank": {"lora_A.weight": thin, "lora_B.weight": tall, "lora_B.bias": tall[:, 0]},
        "with alpha": {
            "lora_down.weight": thin.half(),
            "lora_up.weight": tall.half(),
            "alpha": torch.tensor(2.0),
            "dora_scale": torch.ones(DIM, 1),
        },
        "LoKr": {
            "lokr_w1": square,
            "lokr_w2_a": torch.ones(DIM // 4, 2),
            "lokr_w2_b": torch.ones(2, DIM // 4),
            "alpha": torch.tensor(2.0),
        },
        "LoHa": {
            "hada_w1_a": tall,
            "hada_w1_b": thin,
            "hada_w2_a": tall,
            "hada_w2_b": thin,
            "hada_t1": torch.ones(4, 4, 1, 1),
            "hada_t2": torch.ones(4, 4, 1, 1),
        },
        "GLoRA": {
            "a1.weight": tall,
            "a2.weight": thin,
            "b1.weight": tall,
            "b2.weight": thin,
        },
        "OFT": {
            "oft_blocks": torch.zeros(8, DIM // 8, DIM // 8),
            "alpha": torch.tensor(0.1),
            "rescale": torch.ones(DIM, 1),
        },
        "difference": {"diff": torch.ones(DIM, DIM), "diff_b": torch.ones(DIM)},
        "IA3": {"weight": torch.ones(DIM), "on_input": torch.tensor(True)},
    }
    return {
        kind: {f"{layer}.{leaf}": leaves[leaf].clone() for layer in layers for leaf in leaves}
        for kind, leaves in kinds.items()
    }
