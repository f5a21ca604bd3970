"""A hook that has no effect on our MODEL is named at the sampler, once in a run."""

from typing import Any

import pytest

from .graphs import Prompt, memory, model, node, random_text, save
from .server import ComfyServer
from .stock import T2V_HIGH, difference, empty_latent, ksampler, latent

pytestmark = pytest.mark.comfy

UNKNOWN = [
    ("patch", {"name": "middle_patch"}, "middle_patch"),
    ("replacement", {"name": "double_block", "layer": 2}, "dit double_block 2"),
    ("replacement", {"name": "single_block"}, "dit single_block 0"),
    ("wrapper", {"name": "every_block"}, "wrapper every_block"),
]


def hook(source: str, node_id: str, kind: str, **options: Any) -> Prompt:
    inputs = {"layer": 0, "kind": kind, **options}
    return {node_id: node("WanDuetTestAttachHook", model=(source, 0), **inputs)}


def warnings(server: ComfyServer, prompt: Prompt, **options: Any) -> list[str]:
    """Samples with the MODEL "hooked"; returns what is said of patches at the sampler."""
    prompt = {**random_text(), **empty_latent(), **prompt}
    prompt |= ksampler(("hooked", 0), "sampler", **options)
    result = server.run(prompt | save("hooked", latent=("sampler", 0)))
    assert result.status == "success", result.error
    return [text for text in result.texts("sampler") if "no effect" in text]


@pytest.mark.parametrize(("kind", "options", "said"), UNKNOWN)
def test_it_is_named_once_in_a_run(comfy_server: ComfyServer, kind: str, options: Any, said: str):
    prompt = {**model(T2V_HIGH), **hook("model", "hooked", kind, **options)}
    for seed in (7, 8):
        (text,) = warnings(comfy_server, prompt, seed=seed, cfg=3.0)
        assert f"Got {said}, need" in text
        assert text in comfy_server.log()


def test_several_are_named_together(comfy_server: ComfyServer):
    prompt = {
        **model(T2V_HIGH),
        **hook("model", "first", "patch", name="attn1_output_patch"),
        **hook("first", "second", "replacement", name="double_block"),
        **hook("second", "hooked", "replacement", name="double_block", layer=7),
    }
    (text,) = warnings(comfy_server, prompt)
    assert "Got attn1_output_patch, dit double_block 7, need" in text


def test_nothing_is_said_of_replaced_blocks(comfy_server: ComfyServer):
    for layer in range(2):
        options = {"name": "double_block", "layer": layer}
        prompt = {**model(T2V_HIGH), **hook("model", "hooked", "replacement", **options)}
        assert not warnings(comfy_server, prompt)


def object_patch(name: str) -> Prompt:
    hooked = {"hooked": node("WanDuetTestPatchObject", model=("model", 0), name=name)}
    return {**model(T2V_HIGH), **hooked}


@pytest.mark.parametrize("name", ["head.forward", "patch_embedding.forward"])
def test_patched_parts_that_are_not_used_as_in_cores_model(comfy_server: ComfyServer, name: str):
    (text,) = warnings(comfy_server, object_patch(f"diffusion_model.{name}"), cfg=3.0)
    assert f"Got diffusion_model.{name}, need" in text


@pytest.mark.parametrize("name", ["rope_embedder", "blocks.1.cross_attn.forward", "blocks.0"])
def test_nothing_is_said_of_parts_that_are(comfy_server: ComfyServer, name: str):
    assert not warnings(comfy_server, object_patch(f"diffusion_model.{name}"))


def test_blocks_of_the_engine_stay_where_it_has_them(comfy_server: ComfyServer):
    """Nodes for block swap would take the memory that it has planned with."""
    prompt: Prompt = {**random_text(), **empty_latent(), **memory(blocks_to_swap=1)}
    prompt |= model(T2V_HIGH, memory=("memory", 0))
    prompt["moved"] = node("WanDuetTestMoveBlocks", model=("model", 0))
    for name in ("model", "moved"):
        prompt |= ksampler((name, 0), f"{name}_run") | save(name, latent=(f"{name}_run", 0))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    assert difference(*(latent(comfy_server, name) for name in ("model", "moved"))) == 0
    said = [text for text in result.texts("moved_run") if "wants to move 2 blocks" in text]
    assert len(said) == 1
    assert not any("wants to move" in text for text in result.texts("model_run"))


def test_other_nodes_compile_nothing(comfy_server: ComfyServer):
    """The whole model by ComfyUI's helper, as packs use it too, and blocks by object patches."""
    names = " ".join(f"diffusion_model.blocks.{number}" for number in range(2))
    block = {"name": names, "compiled": True}
    prompt: Prompt = {
        **random_text(),
        **empty_latent(),
        **model(T2V_HIGH),
        "whole": node("TorchCompileModel", model=("model", 0), backend="inductor"),
        "block": node("WanDuetTestPatchObject", model=("whole", 0), **block),
    }
    # Patches of blocks have their effect all the same.
    for name, source in (("plain", ("model", 0)), ("compiled", ("block", 0))):
        prompt[name] = node("WanDuetTestPatch", model=source, kind="override_attention")
        prompt |= ksampler((name, 0), f"{name}_run") | save(name, latent=(f"{name}_run", 0))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    assert difference(*(latent(comfy_server, name) for name in ("plain", "compiled"))) == 0
    for name in ("whole", "block"):
        (text,) = result.texts(name)
        assert text.startswith("Compiling has no effect on this model")


@pytest.mark.parametrize(
    ("hooked", "said"),
    [
        (object_patch("diffusion_model.vace_blocks"), "Got diffusion_model.vace_blocks, need"),
        (
            {**model(T2V_HIGH), "hooked": node("WanDuetTestReplaceForward", model=("model", 0))},
            "Use 'Wan 2.2 Step Cache' in place of",
        ),
    ],
)
def test_what_cannot_run_is_refused_in_a_sentence(
    comfy_server: ComfyServer, hooked: Prompt, said: str
):
    prompt = {**random_text(), **empty_latent(), **hooked, **ksampler(("hooked", 0), "sampler")}
    result = comfy_server.run(prompt | save("hooked", latent=("sampler", 0)))
    assert result.status == "error"
    assert result.error is not None
    message = result.error["exception_message"]
    assert said in message
    assert len(message) < 500
    # The model is none the worse for it.
    harmless = hook("model", "hooked", "replacement", name="double_block")
    assert not warnings(comfy_server, {**model(T2V_HIGH), **harmless})
