"""The workflow templates of videos longer than five seconds, and of loops."""

from dataclasses import replace
from typing import Any

from workflow_specs import (
    HARBOUR,
    LAKE,
    MORNING,
    PROMPT,
    SIZE,
    ModelFile,
    Node,
    Port,
    Position,
    Workflow,
    a14b,
    beside_loras,
    image,
    lora_pair_node,
    settings_note,
)

SVI = tuple(
    ModelFile(
        "loras",
        f"SVI_v2_PRO_Wan2.2-I2V-A14B_{one}_lora_rank_128_fp16.safetensors",
        "https://huggingface.co/Kijai/WanVideo_comfy/resolve/main",
        "LoRAs/Stable-Video-Infinity/v2.0",
    )
    for one in ("HIGH", "LOW")
)
"""Stable Video Infinity 2.0 Pro, in ComfyUI's format."""

LAKE_ON = (
    "A rowing boat turns slowly on a calm mountain lake, a light wind draws lines on the water, "
    "the clouds drift over the ridge, the camera moves a little closer. Soft morning light."
)
LAKE_END = (
    "A rowing boat drifts out of sight on a calm mountain lake, the water becomes smooth, the sun "
    "breaks through the clouds. The camera stands still. Warm light."
)
CANDLE = (
    "Close-up of a candle flame that flickers without end in a dark room, wax glows around the "
    "wick, a thin thread of smoke curls upwards. The camera stands still."
)


def joined(nodes: dict[str, Node], clips: dict[str, Any], at: Position) -> dict[str, Node]:
    """Returns nodes that end in one video of clips, decoded frame by frame."""
    inputs = {"vae": ("vae", 0), **clips}
    video = Node("WanDuetJoinClips", at, (320, 360), inputs)
    return {name: node for name, node in nodes.items() if name != "decode"} | {"video": video}


def windowed(name: str, prompt: str, text: str, seconds: float, *, loop: bool) -> Workflow:
    """A workflow with two experts that see a video in windows."""
    base = a14b(name, "t2v", prompt, text, {})
    nodes = joined(base.nodes, {"clip_1": ("sampler", 0), "loop": loop}, (1720, 0))
    seen = {"model_high": ("experts", 0), "model_low": ("experts", 1), "loop": loop}
    size, sampler = nodes["size"], nodes["sampler"]
    links = {"model_high": ("windows", 0), "model_low": ("windows", 1), "steps": 20}
    nodes |= {
        "windows": Node("WanDuetContextWindows", (900, 0), (360, 270), seen),
        "size": replace(size, inputs={**size.inputs, "seconds": seconds}),
        "sampler": replace(sampler, position=(1310, 0), inputs={**sampler.inputs, **links}),
    }
    return replace(base, nodes=nodes)


def continued(
    name: str, prompts: tuple[str, ...], text: str, given: str = "start_image"
) -> Workflow:
    """A workflow of clips that go on where the one before ends, each with a prompt of its own.

    Args:
        name: of the workflow.
        prompts: one for each clip.
        text: what it does.
        given: input that the image goes to: `start_image` of the first clip, or `anchor_image` of
            all.
    """
    title = given.replace("_", " ").capitalize()
    base = a14b(name, "i2v", prompts[0], text, {given: image(title, MORNING)})
    nodes, clips = dict(base.nodes), {"clip_1": ("sampler", 0)}
    shown_by = tuple(f"size_{number}" for number in range(2, len(prompts) + 1))
    also = shown_by if given == "anchor_image" else ()
    told = [Port(given, "size", given, is_widget=False, also=also), PROMPT]
    for number, prompt in enumerate(prompts[1:], 2):
        before = "sampler" if number == 2 else f"sampler_{number - 1}"
        names = {key: f"{key}_{number}" for key in ("prompt", "size", "sampler")}
        left, clip = 930 * (number - 1), dict(nodes)
        linked = {"positive": (names["prompt"], 0), "negative": (names["prompt"], 1)}
        size = {k: v for k, v in clip["size"].inputs.items() if k not in ("start_image", "size")}
        size |= {**linked, "previous_latent": (before, 0)}
        sampler = {**clip["sampler"].inputs, "seed": number}
        sampler |= {
            k: (names["size"], v[1])
            for k, v in sampler.items()
            if isinstance(v, tuple) and v[0] == "size"
        }
        nodes |= {
            names["prompt"]: _moved(clip["prompt"], left, {"positive": prompt}),
            names["size"]: replace(clip["size"], position=(450 + left, 320), inputs=size),
            names["sampler"]: replace(clip["sampler"], position=(900 + left, 0), inputs=sampler),
        }
        clips[f"clip_{number}"] = (names["sampler"], 0)
        told.append(Port(names["prompt"], names["prompt"], "positive"))
    nodes = joined(nodes, clips, (930 * len(prompts) + 400, 0))
    ports = (*told, SIZE[0])
    return replace(base, nodes=nodes, ports=ports, text=f"{text}\n\n{settings_note(nodes, ports)}")


def anchored(name: str, prompts: tuple[str, ...], text: str) -> Workflow:
    """Clips whose motion goes on, by the LoRA SVI 2 Pro: an anchor image, and latents."""
    base = continued(name, prompts, text, "anchor_image")
    links = {"model_high": ("loras", 0), "model_low": ("loras", 1)}
    behind = {
        key: replace(node, inputs={**node.inputs, **links})
        for key, node in base.nodes.items()
        if node.kind == "WanDuetMoESampler"
    }
    nodes = {**base.nodes, "loras": lora_pair_node(*SVI), **behind}
    said = f"{text}\n\n{settings_note(nodes, base.ports)}"
    return replace(base, nodes=beside_loras(nodes), text=said)


def _moved(node: Node, right: int, inputs: dict[str, Any]) -> Node:
    """A node with other inputs, further right."""
    return replace(node.moved(right), inputs={**node.inputs, **inputs})


LONG_WORKFLOWS = (
    windowed(
        "Wan 2.2 Long Video (Context Windows) 14B",
        HARBOUR,
        "A video of 20 seconds in the memory of 5, from text, with the two 14B experts at 16 fps. "
        "For one scene that goes on; what happens one after the other needs *Continued Clips*.",
        20.0,
        loop=False,
    ),
    continued(
        "Wan 2.2 Long Video (Continued Clips) 14B",
        (LAKE, LAKE_ON, LAKE_END),
        "Animates an image for 15 seconds: three clips, each with a prompt of its own, each going "
        "on from the last frame of the one before. For motion that goes on as well there is *Long "
        "Video (SVI 2 Pro)*.",
    ),
    anchored(
        "Wan 2.2 Long Video (SVI 2 Pro) 14B",
        (LAKE, LAKE_ON, LAKE_END),
        "Animates an image for 14 seconds, with the LoRAs *SVI 2 Pro*: three clips, each with a "
        "prompt of its own, each going on with the motion of the one before. Your image is the "
        "anchor that keeps colours and faces the same in all of them.",
    ),
    windowed(
        "Wan 2.2 Seamless Loop 14B",
        CANDLE,
        "A loop of 5 seconds from text, with the two 14B experts at 16 fps: its end goes over into "
        "its beginning. Ask for motion that can go on for ever.",
        5.0,
        loop=True,
    ),
)
