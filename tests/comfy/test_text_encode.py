"""Prompts through our text encoder loader and prompt node, against transformers and core's node."""

import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.toy.make_checkpoints import make_text_encoder
from wan_model.config import NEGATIVE_PROMPT

from .graphs import T2V, TEXT_ENCODER, Prompt, model, node, save
from .server import ComfyServer
from .stock import difference

pytestmark = pytest.mark.comfy

END = 1
ROUNDING = 3e-5
"""Between two ways to the same embedding in fp32; it is 7e-6 on one kind of CPU."""


class Reference:
    """The toy encoder in transformers, fp32."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        from transformers import UMT5Config, UMT5EncoderModel

        pieces = state.pop("spiece_model").numpy().tobytes()
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_proto=pieces)
        config = UMT5Config(
            vocab_size=state["shared.weight"].shape[0],
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
        self.model = UMT5EncoderModel(config).eval()
        missing, unexpected = self.model.load_state_dict(
            {key: value.float() for key, value in state.items()}, strict=False
        )
        assert set(missing) <= {"encoder.embed_tokens.weight"}
        assert not unexpected

    def tokens(self, text: str) -> list[int]:
        return [*self.tokenizer.Encode(text), END]

    @torch.no_grad()
    def encode(self, tokens: list[int]) -> Tensor:
        """Returns (1, 512, 64), zero beyond the tokens."""
        embedding = self.model(torch.tensor([tokens])).last_hidden_state
        return torch.nn.functional.pad(embedding, (0, 0, 0, 512 - len(tokens)))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(make_text_encoder("toy_umt5"))


def loader(name: str = TEXT_ENCODER) -> Prompt:
    return {"clip": node("WanDuetTextEncoderLoader", text_encoder_name=name)}


def encode(positive: str, negative: str = "low quality", node_id: str = "text") -> Prompt:
    """Our node and what it gives, saved as NODE_positive and NODE_negative."""
    inputs = {"clip": ("clip", 0), "positive": positive, "negative": negative}
    return {
        node_id: node("WanDuetTextEncode", **inputs),
        **save(f"{node_id}_positive", conditioning=(node_id, 0)),
        **save(f"{node_id}_negative", conditioning=(node_id, 1)),
    }


def embedding(server: ComfyServer, name: str) -> Tensor:
    return load_file(server.output / f"{name}.safetensors")["conditioning"]


def run(server: ComfyServer, *prompts: Prompt) -> list[str]:
    """Runs the prompts as one and returns the texts shown under the node "text"."""
    merged = {key: value for prompt in prompts for key, value in prompt.items()}
    result = server.run(merged)
    assert result.status == "success", result.error
    return result.texts("text")


def test_prompts_are_cleaned_and_encoded_as_official(
    comfy_server: ComfyServer, reference: Reference
):
    official_negative = NEGATIVE_PROMPT.replace("，", ",")
    cases = {
        "a red ball rolls": "a red ball rolls",
        "a (red:1.5) [ball] \\(x\\)": "a (red:1.5) [ball] \\(x\\)",
        "cats &amp;amp; dogs &lt;3": "cats & dogs <3",
        "  a \n\n red\t ball\u3000 ": "a red ball",
        "a ball，red！（small）": "a ball,red!(small)",
        "“the sea” isn’t quiet": '"the sea" isn\'t quiet',
        "embedding:none of it": "embedding:none of it",
        "": "",
    }
    nodes = [encode(text, "", f"case_{i}") for i, text in enumerate(cases)]
    run(comfy_server, loader(), *nodes)

    errors = []
    for i, cleaned in enumerate(cases.values()):
        tokens = reference.tokens(cleaned)
        found = embedding(comfy_server, f"case_{i}_positive")
        errors.append(difference(found, reference.encode(tokens)))
        assert found.dtype == torch.float32
        assert not found[:, len(tokens) :].any()
        negative = embedding(comfy_server, f"case_{i}_negative")
        errors.append(difference(negative, reference.encode(reference.tokens(official_negative))))
    assert max(errors) <= ROUNDING


def test_the_official_negative_prompt_can_be_switched_off(
    comfy_server: ComfyServer, reference: Reference
):
    prompt = encode("a red ball rolls", "", "off")
    prompt["off"]["inputs"]["official_negative"] = False
    run(comfy_server, loader(), prompt)

    found = embedding(comfy_server, "off_negative")
    assert difference(found, reference.encode(reference.tokens(""))) <= ROUNDING


def test_stock_text_encode_gives_the_same_for_plain_text(comfy_server: ComfyServer):
    text = "a white cat sits on a surfboard at the beach"
    stock = node("CLIPTextEncode", clip=("clip", 0), text=text)
    prompt = {"stock": stock, **save("stock_text", conditioning=("stock", 0))}
    run(comfy_server, loader(), encode(text), prompt)

    stock_embedding = embedding(comfy_server, "stock_text")
    ours = embedding(comfy_server, "text_positive")
    assert difference(ours, stock_embedding) <= ROUNDING


def test_long_prompt_is_cut_with_a_warning(comfy_server: ComfyServer, reference: Reference):
    text = "a small blue boat moves from left to right under a cloudy sky " * 40
    tokens = reference.tokens(text.strip())
    assert len(tokens) > 512
    texts = run(comfy_server, loader(), encode(text))

    assert len(texts) == 1
    assert f"{len(tokens)} tokens" in texts[0]
    assert "512" in texts[0]
    expected = reference.encode([*tokens[:511], END])
    assert difference(embedding(comfy_server, "text_positive"), expected) <= ROUNDING
    assert run(comfy_server, loader(), encode("a ball")) == []


def cache_files(server: ComfyServer) -> set[Path]:
    return set((server.base / "user" / "wanduet" / "text_embeddings").glob("*"))


def test_embeddings_are_kept_on_disk(comfy_server: ComfyServer):
    run(comfy_server, loader(), encode("a prompt before it"))
    before = cache_files(comfy_server)
    folder = next(iter(before)).parent
    left, begun = folder / "left_by_a_kill.part", folder / "begun.part"
    for part in (left, begun):
        part.write_bytes(b"half")
    os.utime(left, (0, 0))
    run(comfy_server, loader(), encode("a kept prompt", "first"))
    original = embedding(comfy_server, "text_positive")
    assert not left.exists()
    begun.unlink()
    made = cache_files(comfy_server) - before
    assert len(made) == 2
    kept = {file: load_file(file)["embedding"] for file in made}
    file = next(f for f, v in kept.items() if v.equal(original[:, : v.shape[1]]))

    # Another negative prompt makes the node run again. The encoder would not give ones.
    save_file({"embedding": torch.ones_like(kept[file])}, file)
    run(comfy_server, loader(), encode("a kept prompt", "second"))
    found = embedding(comfy_server, "text_positive")
    length = kept[file].shape[1]
    assert found[:, :length].eq(1).all()
    assert not found[:, length:].any()

    for number, damage in enumerate((None, kept[file] * torch.nan, kept[file][:, 1:])):
        if damage is None:
            file.write_bytes(b"not a safetensors file")
        else:
            save_file({"embedding": damage.contiguous()}, file)
        run(comfy_server, loader(), encode("a kept prompt", f"damaged {number}"))
        assert embedding(comfy_server, "text_positive").equal(original)
        assert load_file(file)["embedding"].equal(kept[file])


TEXT_LORA = {
    "lora_name": "toy_text_lora.safetensors",
    "strength_model": 0.0,
    "strength_clip": 1.0,
}
CHANGES: dict[str, tuple[int, Prompt]] = {
    "lora": (
        1,
        {
            "changed": node("LoraLoader", model=("any", 0), clip=("clip", 0), **TEXT_LORA),
            **model(T2V[0], "any"),
        },
    ),
    "hook": (
        0,
        {
            "hook": node("CreateHookLora", **TEXT_LORA),
            "changed": node(
                "SetClipHooks",
                clip=("clip", 0),
                hooks=("hook", 0),
                apply_to_conds=False,
                schedule_clip=False,
            ),
        },
    ),
    "skip": (
        0,
        {"changed": node("CLIPSetLastLayer", clip=("clip", 0), stop_at_clip_layer=-2)},
    ),
    "part": (0, {"changed": node("WanDuetTestReplacePart", clip=("clip", 0))}),
}
"""Nodes that change an encoder, and which output of "changed" is the CLIP."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_encoder_has_nothing_to_do_with_what_is_kept(
    comfy_server: ComfyServer, change: str
):
    key = "text_encoders.umt5xxl.transformer.encoder.block.1.layer.1.DenseReluDense.wo"
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"{key}.lora_down.weight": torch.randn(4, 128, generator=generator),
        f"{key}.lora_up.weight": torch.randn(64, 4, generator=generator),
    }
    save_file(lora, comfy_server.base / "models" / "loras" / "toy_text_lora.safetensors")
    text = f"whom a {change} changes"
    run(comfy_server, loader(), encode(text))
    original, files = embedding(comfy_server, "text_positive"), cache_files(comfy_server)

    output, nodes = CHANGES[change]
    ours = encode(text)
    ours["text"]["inputs"]["clip"] = ["changed", output]
    stock = node("CLIPTextEncode", clip=("changed", output), text=text)
    prompt = {"stock": stock, **save("stock_text", conditioning=("stock", 0))}
    run(comfy_server, loader(), nodes, ours, prompt)
    changed = embedding(comfy_server, "text_positive")
    assert difference(changed, original) > 0.01
    assert difference(changed, embedding(comfy_server, "stock_text")) <= ROUNDING
    assert cache_files(comfy_server) == files


def test_an_encoder_of_newer_comfyui_is_kept_too(comfy_server: ComfyServer):
    before = cache_files(comfy_server)
    ours = encode("what a newer one encodes")
    ours["text"]["inputs"]["clip"] = ["newer", 0]
    newer = {"newer": node("WanDuetTestComputeDtype", clip=("clip", 0))}
    run(comfy_server, loader(), newer, ours)
    assert cache_files(comfy_server) > before


def test_a_broken_encoder_is_named_and_nothing_of_it_is_kept(comfy_server: ComfyServer):
    state = make_text_encoder("toy_umt5")
    state["encoder.final_layer_norm.weight"][3] = torch.nan
    folder = comfy_server.base / "models" / "text_encoders"
    save_file(state, folder / "broken.safetensors")
    files = cache_files(comfy_server)
    error = comfy_server.run({**loader("broken.safetensors"), **encode("what breaks")}).error
    assert error is not None
    assert error["node_type"] == "WanDuetTextEncode"
    assert error["exception_message"].startswith("The text encoder cannot be used. Got NaN")
    assert cache_files(comfy_server) == files


def test_kept_embeddings_belong_to_the_content_of_the_file(comfy_server: ComfyServer):
    folder = comfy_server.base / "models" / "text_encoders"
    shutil.copy2(folder / TEXT_ENCODER, folder / "renamed.safetensors")
    save_file(make_text_encoder("another"), folder / "another.safetensors")
    run(comfy_server, loader(), encode("whose prompt"))
    original, files = embedding(comfy_server, "text_positive"), cache_files(comfy_server)
    run(comfy_server, loader("renamed.safetensors"), encode("whose prompt"))
    assert embedding(comfy_server, "text_positive").equal(original)
    assert cache_files(comfy_server) == files
    run(comfy_server, loader("another.safetensors"), encode("whose prompt"))
    assert difference(embedding(comfy_server, "text_positive"), original) > 0.1
    assert len(cache_files(comfy_server)) == len(files) + 2
    # Put right between the samples that are looked at, so that only the time tells.
    os.utime(folder / "renamed.safetensors", ns=(0, 0))
    run(comfy_server, loader("renamed.safetensors"), encode("whose prompt"))
    assert embedding(comfy_server, "text_positive").equal(original)
    assert len(cache_files(comfy_server)) == len(files) + 4


def test_fp8_scaled_encoder(comfy_server: ComfyServer):
    state = make_text_encoder("toy_umt5")
    for key in [key for key in state if "SelfAttention" in key or "DenseReluDense" in key]:
        if "relative" in key:
            continue
        weight = state[key].float()
        scale = weight.abs().max() / 448
        state[key] = (weight / scale).to(torch.float8_e4m3fn)
        state[key.replace(".weight", ".scale_weight")] = scale
    state["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    folder = comfy_server.base / "models" / "text_encoders"
    save_file(state, folder / "scaled.safetensors")
    run(comfy_server, loader(), encode("a red ball"))
    exact = embedding(comfy_server, "text_positive")
    run(comfy_server, loader("scaled.safetensors"), encode("a red ball"))
    found = embedding(comfy_server, "text_positive")

    error = (found - exact).norm() / exact.norm()
    assert 0 < error < 0.1
