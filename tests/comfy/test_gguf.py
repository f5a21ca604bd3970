"""GGUF files in the ordinary loaders: a pair, what lists it, and what is said of files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toy.gguf_files import write_dit, write_umt5
from tests.toy.make_checkpoints import make_text_encoder

from .client import PromptRejected
from .graphs import T2V, Prompt, experts, memory, model, moe_sampler, node, random_text, save
from .server import ComfyServer
from .stock import empty_latent, latent
from .test_lora_pair import pair, pair_node, strange
from .test_routes import ask

pytestmark = pytest.mark.comfy

PAIR = ("gguf/Wan2.2-HighNoise-Q8_0.gguf", "gguf/Wan2.2-LowNoise-Q4_K_M.gguf")
EXACT = ("gguf/exact_high_noise.safetensors", "gguf/exact_low_noise.safetensors")
KINDS = (("Q8_0", "Q8_0"), ("Q4_0", "Q8_0"))
"""Of the blocks."""
UMT5, EXACT_UMT5 = "umt5-Q8_0.gguf", "exact_umt5.safetensors"
LINEARS = tuple(f"{name}.weight" for name in (".q", ".k", ".v", ".o", "wi_0", "wi_1", "wo"))
LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}


@pytest.fixture(scope="module", autouse=True)
def files(comfy_server: ComfyServer, toy_models: Path) -> Iterator[None]:
    """A pair of GGUF files, the same numbers as safetensors, and files of other kinds."""
    folder = comfy_server.base / "models" / "diffusion_models"
    (folder / "gguf").mkdir()
    for source, packed, exact, kinds in zip(T2V, PAIR, EXACT, KINDS, strict=True):
        state = load_file(toy_models / "diffusion_models" / source)
        matrices = [n for n, t in state.items() if n.startswith("blocks.") and t.ndim == 2]
        of_each = {name: kinds[int(name.split(".")[1])] for name in matrices}
        save_file(write_dit(folder / packed, state, of_each), folder / exact)
    encoder = make_text_encoder("umt5")
    texts = folder.parent / "text_encoders"
    exact = write_umt5(texts / UMT5, encoder, "Q8_0")
    # All but the matrices of linear layers becomes fp16.
    exact = {n: t if n.endswith(LINEARS) else t.half().float() for n, t in exact.items()}
    save_file({**exact, "spiece_model": encoder["spiece_model"]}, texts / EXACT_UMT5)
    (folder / "gguf" / "model.ckpt").write_bytes(b"\x80\x02")
    (folder / "gguf" / "broken.gguf").write_bytes(b"GGUF\x03")
    yield
    for file in (folder / "gguf").iterdir():
        file.unlink()
    (folder / "gguf").rmdir()
    (texts / UMT5).unlink()
    (texts / EXACT_UMT5).unlink()


def sampled(server: ComfyServer, files: tuple[str, str], **options: Any) -> torch.Tensor:
    prompt: Prompt = {**random_text(64, 20), **empty_latent(), **experts(files, **options)}
    prompt |= memory(blocks_to_swap=2)
    prompt |= moe_sampler(steps=4, **LINKS)
    result = server.run({**prompt, **save("gguf", latent=("sampler", 0))})
    assert result.status == "success", result.error
    return latent(server, "gguf")


def test_a_pair_samples_as_its_numbers_in_safetensors(comfy_server: ComfyServer):
    exact = sampled(comfy_server, EXACT)
    for options in ({}, {"memory": ("memory", 0)}):
        got = sampled(comfy_server, PAIR, **options)
        assert (got - exact).norm() < 1e-5 * exact.norm()


def test_a_lora_file_of_every_kind_is_not_rounded(comfy_server: ComfyServer):
    save_file(strange(), comfy_server.base / "models" / "loras" / "gguf_strange.safetensors")
    found: list[torch.Tensor] = []
    for name, options in ((EXACT[0], {}), (PAIR[0], {}), (PAIR[0], {"memory": ("memory", 0)})):
        prompt: Prompt = {**random_text(64, 20), **empty_latent(), **memory(blocks_to_swap=1)}
        prompt |= {**model(name, **options)}
        prompt |= pair_node("model", None, pair("gguf_strange.safetensors", "none"))
        prompt |= moe_sampler(model_high=("pair", 0), model_low=None, steps=2, **LINKS)
        result = comfy_server.run({**prompt, **save("gguf", latent=("sampler", 0))})
        assert result.status == "success", result.error
        assert not any("rounds" in text for text in result.texts("pair"))
        found.append(latent(comfy_server, "gguf"))
    for other in found[1:]:
        assert (other - found[0]).norm() < 2e-5 * found[0].norm()


def test_a_text_encoder_gives_the_embedding_of_its_numbers(comfy_server: ComfyServer):
    found: list[torch.Tensor] = []
    nbytes: list[int] = []
    for name in (UMT5, EXACT_UMT5):
        about = {"clip": ("size", 0), "positive": "two foxes \u4e24\u53ea", "negative": ""}
        prompt: Prompt = {
            "clip": node("WanDuetTextEncoderLoader", text_encoder_name=name),
            "size": node("WanDuetTestClipSize", clip=("clip", 0), name="umt5_size"),
            "text": node("WanDuetTextEncode", **about),
        }
        result = comfy_server.run({**prompt, **save("umt5", conditioning=("text", 0))})
        assert result.status == "success", result.error
        found.append(load_file(comfy_server.output / "umt5.safetensors")["conditioning"])
        nbytes.append(int((comfy_server.output / "umt5_size.txt").read_text()))
    assert found[0].any()
    assert (found[0] - found[1]).norm() < 1e-5 * found[1].norm()
    # 8.5 of 32 bits in its matrices, 16 in its table of tokens.
    assert nbytes[0] < 0.4 * nbytes[1]


def test_core_saves_the_numbers_of_a_text_encoder(comfy_server: ComfyServer):
    prompt: Prompt = {
        "clip": node("WanDuetTextEncoderLoader", text_encoder_name=UMT5),
        "copy": node("CLIPSetLastLayer", clip=("clip", 0), stop_at_clip_layer=-1),
        "write": node("CLIPSave", clip=("copy", 0), filename_prefix="gguf_clip/saved"),
    }
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    (written,) = (comfy_server.output / "gguf_clip").glob("*umt5xxl*.safetensors")
    saved = load_file(written)
    exact = load_file(comfy_server.base / "models" / "text_encoders" / EXACT_UMT5)
    for name in exact.keys() - {"spiece_model"}:
        assert torch.equal(saved[name].float(), exact[name].half().float()), name


def test_they_are_listed_and_described(comfy_server: ComfyServer):
    info = comfy_server.object_info()
    for loader, names in (
        ("WanDuetExpertLoader", ("high_noise_model", "low_noise_model")),
        ("WanDuetModelLoader", ("model_name",)),
    ):
        for name in names:
            kind, options = info[loader]["input"]["required"][name]
            assert set(PAIR) <= {*(options["options"] if kind == "COMBO" else kind)}
    stock = str(info["UNETLoader"])
    assert not any(name in stock for name in PAIR)
    answer = ask(comfy_server, "describe", folder="diffusion_models", name=PAIR[1])
    assert (answer["kind"], answer["expert"]) == ("t2v", "low")
    assert answer["label"].endswith("low noise, mixed (Q4_0, Q8_0)")


@pytest.mark.parametrize(
    ("pair", "parts"),
    [
        (PAIR[::-1], ["These look swapped", "need them the other way round"]),
        (
            (PAIR[0], "gguf/model.ckpt"),
            ["of a kind that is not read", "Got .ckpt", ".safetensors or .gguf"],
        ),
        ((PAIR[0], "gguf/nothing.gguf"), ["was not found"]),
        ((PAIR[0], "gguf/broken.gguf"), ["broken.gguf is damaged", "header is cut off"]),
    ],
)
def test_refusals_name_the_right_thing(
    comfy_server: ComfyServer, pair: tuple[str, str], parts: list[str]
):
    prompt: Prompt = {**random_text(64, 20), **empty_latent(), **experts(pair)}
    prompt |= {**moe_sampler(**LINKS), **save("gguf", latent=("sampler", 0))}
    try:
        result = comfy_server.run(prompt)
        text = result.error["exception_message"] if result.error else "no error"
    except PromptRejected as error:
        text = str(error)
    assert all(part in text for part in parts), text
