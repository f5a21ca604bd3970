"""'Wan 2.2 Load LoRA Pair' on a server: what it does to both experts, and what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.toy.gguf_files import write_dit
from tests.toy.make_checkpoints import DIM, FFN_DIM, LORA_RANK, make_lora

from .client import PromptRejected
from .graphs import T2V, Prompt, memory, model, moe_sampler, node, random_text, save, stock_model
from .server import ComfyServer
from .stock import T2V_HIGH, empty_latent, ksampler, latent
from .test_loras import FP8, FP32_ROUNDING, LINKS, dequantized, error

pytestmark = pytest.mark.comfy

HIGH, LOW = "rain_HIGH_e10.safetensors", "rain_LOW_e12.safetensors"
GGUF = "toy_t2v_high_noise_Q4_0.gguf"
DIFFUSERS = {"self_attn": "attn1", "cross_attn": "attn2", "ffn.0": "ffn.net.0.proj"}
DIFFUSERS |= {".q.": ".to_q.", ".v.": ".to_v.", "diffusion_model.": "transformer."}


def exact_of(name: str) -> str:
    """The file of a model's weights in fp32."""
    return f"exact_{Path(name).stem}.safetensors"


def diffusers(state: dict[str, Tensor], prefix: str = "transformer.") -> dict[str, Tensor]:
    """A LoRA of ComfyUI's spelling as diffusers writes it."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for ours, theirs in {**DIFFUSERS, "diffusion_model.": prefix}.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def strange() -> dict[str, Tensor]:
    """A LoRA of kinds that ComfyUI does not have, or not so."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    block = "diffusion_model.blocks.0."
    return {
        f"{block}diff_m": randn(1, 6, DIM),
        "diffusion_model.head.modulation.diff": randn(1, 2, DIM),
        f"{block}norm3.diff_b": randn(DIM),
        f"{block}ffn.0.lokr_w1": randn(4, 4),
        f"{block}ffn.0.lokr_w2_a": randn(FFN_DIM // 4, 2),
        f"{block}ffn.0.lokr_w2_b": randn(2, DIM // 4),
        f"{block}ffn.2.lokr_w1": randn(4, 4),
        f"{block}ffn.2.lokr_w2": randn(DIM // 4, FFN_DIM // 4),
        f"{block}self_attn.k.lora_A.weight": randn(LORA_RANK, DIM),
        f"{block}self_attn.k.lora_B.weight": randn(DIM, LORA_RANK),
        f"{block}self_attn.k.dora_scale": 1 + randn(DIM, 1).abs(),
        f"{block}self_attn.o.oft_blocks": randn(DIM // 8, 8, 8),
        f"{block}self_attn.o.rescale": 1 + randn(DIM, 1),
        f"{block}cross_attn.k_img.lora_A.weight": randn(LORA_RANK, DIM),
        f"{block}cross_attn.k_img.lora_B.weight": randn(DIM, LORA_RANK),
    }


@pytest.fixture(scope="module")
def server(comfy_server: ComfyServer, toy_models: Path) -> Iterator[ComfyServer]:
    """The server with LoRA files, and the fp8 model's weights in fp32."""
    loras = comfy_server.base / "models" / "loras"
    pair = {HIGH: make_lora("high"), LOW: make_lora("low")}
    for name, state in pair.items():
        save_file(diffusers(state), loras / name)
        save_file(state, loras / f"comfy_{name}")
    both = [
        diffusers(state, f"diffusion_model.transformer_{n}.")
        for n, state in enumerate(pair.values(), 1)
    ]
    save_file(both[0] | both[1], loras / "one_file.safetensors")
    save_file(strange(), loras / "strange.safetensors")
    save_file(
        {"blocks.0.self_attn.q_loras.down.weight": torch.zeros(1)}, loras / "stand.safetensors"
    )
    models = comfy_server.base / "models" / "diffusion_models"
    save_file(dequantized(toy_models / "diffusion_models" / FP8), models / exact_of(FP8))
    packed = load_file(toy_models / "diffusion_models" / T2V[0])
    save_file(write_dit(models / GGUF, packed, "Q4_0"), models / exact_of(GGUF))
    yield comfy_server
    (models / GGUF).unlink()


def pair(high: str, low: str = "auto", end: str = "", **options: Any) -> dict[str, Any]:
    """One row of the node's widgets."""
    row = {
        "lora_high": high,
        "lora_low": low,
        "strength_high": 1.0,
        "strength_low": 1.0,
        "on": True,
    }
    return {f"{name}{end}": value for name, value in {**row, **options}.items()}


def pair_node(high: str | None, low: str | None, *rows: dict[str, Any]) -> Prompt:
    """The node on models of these ids: ("pair", 0) and ("pair", 1)."""
    links = {name: (i, 0) for name, i in (("model_high", high), ("model_low", low)) if i}
    merged = {key: value for row in rows for key, value in row.items()}
    return {"pair": node("WanDuetLoraPair", **links, **merged)}


def sampled(server: ComfyServer, prompt: Prompt, links: dict[str, Any]) -> tuple[Tensor, list[str]]:
    """Samples on both experts; returns the latent and what the pair node said."""
    prompt = {**random_text(64, 20), **empty_latent(), **prompt}
    prompt |= moe_sampler(**{**LINKS, "steps": 4, **links})
    result = server.run({**prompt, **save("lora_pair", latent=("sampler", 0))})
    assert result.status == "success", result.error
    return latent(server, "lora_pair"), result.texts("pair")


OF_PAIR = {"model_high": ("pair", 0), "model_low": ("pair", 1)}


def experts(high: str, **options: Any) -> Prompt:
    return {**model(high, "high", **options), **model(T2V[1], "low", **options)}


def test_a_pair_is_exact_on_fp8_weights(server: ComfyServer):
    reference = experts(exact_of(FP8))
    for expert, name in (("high", HIGH), ("low", LOW)):
        lora = {"lora_name": f"comfy_{name}", "strength_model": 0.7}
        reference[f"of_{expert}"] = node("LoraLoaderModelOnly", model=(expert, 0), **lora)
    exact, _ = sampled(
        server, reference, {"model_high": ("of_high", 0), "model_low": ("of_low", 0)}
    )
    bare, _ = sampled(
        server, experts(exact_of(FP8)), {"model_high": ("high", 0), "model_low": ("low", 0)}
    )
    assert error(exact, bare) > 0.03
    strengths = {"strength_high": 0.7, "strength_low": 0.7}
    for options in ({}, {"memory": ("memory", 0)}):
        prompt = {**experts(FP8, **options), **memory(blocks_to_swap=1)}
        for row in (pair(HIGH, LOW), pair(HIGH), pair("one_file.safetensors")):
            got, (said,) = sampled(
                server, prompt | pair_node("high", "low", {**row, **strengths}), OF_PAIR
            )
            assert error(got, exact) < FP32_ROUNDING
            lines = said.splitlines()
            names = [row["lora_high"], LOW if row["lora_high"] == HIGH else row["lora_high"]]
            for line, name, expert in zip(lines, names, ("high", "low"), strict=True):
                assert line.startswith(
                    f"{name} at 0.7 on the {expert}-noise expert: 6 weights changed"
                )


def test_every_kind_is_the_same_with_and_without_the_engine_and_on_cores_model(server: ComfyServer):
    results: dict[str, Tensor] = {}
    loaders = {
        "ours": model(T2V_HIGH, "model"),
        "engine": {**memory(blocks_to_swap=1), **model(T2V_HIGH, "model", memory=("memory", 0))},
        "core": stock_model(T2V_HIGH, "model"),
        "bare": model(T2V_HIGH, "model"),
    }
    for name, loader in loaders.items():
        prompt = {**random_text(), **empty_latent(), **loader}
        if name != "bare":
            twice = (
                pair("strange.safetensors"),
                pair("none", end="_2"),
                pair("strange.safetensors", end="_3", on=False),
            )
            prompt |= pair_node("model", None, *twice)
        prompt |= ksampler(("model" if name == "bare" else "pair", 0), "sampler")
        result = server.run({**prompt, **save(name, latent=("sampler", 0))})
        assert result.status == "success", result.error
        results[name] = latent(server, name)
        if name != "bare":
            (said,) = result.texts("pair")
            assert "at 1: 7 weights changed by about" in said
            assert "1 skipped, for image inputs that Wan 2.1 has" in said
            assert len(said.splitlines()) == 1
    assert error(results["engine"], results["ours"]) < FP32_ROUNDING
    assert (
        error(results["core"], results["ours"])
        < 2e-3
        < 0.02
        < error(results["bare"], results["ours"])
    )


@pytest.mark.parametrize("name", [FP8, GGUF])
def test_every_kind_is_exact_on_quantized_weights(server: ComfyServer, name: str):
    plain = {k: v for k, v in make_lora("high", layers=1).items() if "ffn" not in k}
    save_file(strange() | plain, server.base / "models" / "loras" / "lokr.safetensors")
    rows = pair("lokr.safetensors", "none") | pair(
        "lokr.safetensors", "none", "_2", strength_high=-0.4
    )
    one = {"model_high": ("pair", 0), "model_low": None}
    with_loras = pair_node("model", None, rows)
    exact, _ = sampled(server, model(exact_of(name), "model") | with_loras, one)
    bare, _ = sampled(server, model(exact_of(name), "model"), {**one, "model_high": ("model", 0)})
    assert error(exact, bare) > 0.03
    for options in ({}, {"memory": ("memory", 0)}):
        prompt = {**memory(blocks_to_swap=1), **model(name, "model", **options)}
        got, (said,) = sampled(server, prompt | with_loras, one)
        assert error(got, exact) < 3e-4  # rounded into fp8, it is 0.02
        assert "2 of them cannot be kept as small matrices" in said


def test_changed_weights_are_compiled_too(server: ComfyServer):
    dora = {
        name.replace(".0.", ".1."): tensor
        for name, tensor in strange().items()
        if "attn.k." in name
    }
    dora |= {name: tensor for name, tensor in strange().items() if "attn.k." in name}
    save_file(dora, server.base / "models" / "loras" / "dora.safetensors")
    prompt = {**model(FP8, "model"), **pair_node("model", None, pair("dora.safetensors", "none"))}
    plain, _ = sampled(server, prompt, {"model_high": ("pair", 0), "model_low": None})
    prompt |= {"compiled": node("WanDuetCompile", model=("pair", 0), mode="default")}
    prompt |= moe_sampler(**{**LINKS, "steps": 4, "model_high": ("compiled", 0), "model_low": None})
    prompt = {
        **random_text(64, 20),
        **empty_latent(),
        **prompt,
        **save("dora", latent=("sampler", 0)),
    }
    result = server.run(prompt)
    assert result.status == "success", result.error
    assert not any("uncompiled" in text for text in result.texts("compiled"))
    assert error(latent(server, "dora"), plain) < 0.02


def ran(server: ComfyServer, models: Prompt, links: tuple[str | None, ...], *rows: dict[str, Any]):
    """Runs the node alone."""
    prompt = {**models, **pair_node(*links, *rows), **empty_latent()}
    seen = {"model": ("pair", 0), "latent": ("latent", 0), "name": "seen"}
    prompt["seen"] = node("WanDuetTestModelState", **seen)
    return server.run({**prompt, **save("seen", latent=("seen", 0))})


def test_what_it_says(server: ComfyServer):
    lone = server.base / "models" / "loras" / "smoke_high_noise.safetensors"
    save_file(make_lora("high"), lone)
    narrow = make_lora("high") | {"diffusion_model.blocks.0.cross_attn.q.diff": torch.ones(1, 2)}
    save_file(narrow | {"strange": torch.ones(1)}, lone.with_name("partly.safetensors"))
    pair_of = experts(FP8)
    smoke = f"{lone.name} at 1 on the high-noise expert: 6 weights changed by about"
    cases: list[tuple[list[dict[str, Any]], list[str]]] = [
        ([pair("none")], ["No LoRA is on."]),
        ([pair(HIGH, on=False)], ["No LoRA is on."]),
        ([pair(lone.name)], [f"No partner of {lone.name} was found", smoke]),
        ([pair(lone.name, "none")], [smoke]),
        ([pair("none", LOW)], [f"{LOW} at 1 on the low-noise expert"]),
        (
            [pair(lone.name, lone.name, strength_low=0.0)],
            [smoke, "off on the low-noise expert"],
        ),
        (
            [pair(lone.name, lone.name)],
            [smoke, "1 on the low-noise", "Both experts have a LoRA for the high-noise one"],
        ),
        (
            [pair("partly.safetensors", "none")],
            ["1 of another size (diffusion_model.blocks.0.cross_attn.q); 1 unknown (strange)"],
        ),
        (
            [pair("strange.safetensors", "none")],
            ["at 1 on the high", "2 of them cannot be kept as small matrices"],
        ),
        ([pair(HIGH, "none"), pair(HIGH, "none", "_2")], [f"{HIGH} at 1", f"{HIGH} at 1"]),
    ]
    for rows, expected in cases:
        result = ran(server, pair_of, ("high", "low"), *rows)
        assert result.status == "success", result.error
        (text,) = result.texts("pair")
        lines = text.splitlines()
        assert len(lines) == len(expected), text
        assert all(part in line for part, line in zip(expected, lines, strict=True)), text
    result = ran(server, model(T2V_HIGH, "alone"), ("alone", None), pair(HIGH, LOW))
    (text,) = result.texts("pair")
    assert f"{LOW} is not used: no low-noise expert" in text
    assert f"{HIGH} at 1: 6 weights changed by about" in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (pair(LOW, HIGH), "These LoRAs look swapped"),
        (pair("stand.safetensors"), "is not a LoRA for Wan. Got a Stand-In file"),
    ],
)
def test_what_it_refuses(server: ComfyServer, row: dict[str, Any], message: str):
    result = ran(server, experts(FP8), ("high", "low"), row)
    assert result.error is not None
    assert result.error["node_id"] == "pair"
    assert message in result.error["exception_message"]


def test_a_missing_file_is_named_before_the_run(server: ComfyServer):
    with pytest.raises(PromptRejected, match=r"lora_high: 'gone.safetensors' not in"):
        ran(server, experts(FP8), ("high", "low"), pair("gone.safetensors"))
