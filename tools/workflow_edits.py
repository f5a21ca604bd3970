"""Templates that put ComfyUI's own nodes between ours: videos, masks, regions, hooks, and time."""

from dataclasses import replace
from typing import Any

from workflow_specs import (
    HARBOUR,
    PROMPT,
    SIZE,
    STEPS,
    UMT5,
    VAE_21,
    WAN22,
    ModelFile,
    Node,
    Port,
    Position,
    Workflow,
    common_nodes,
    dit,
    expert_nodes,
    sampler_node,
    settings_note,
    size_node,
    sized,
)

LAKE_VIDEO, BOAT, LEFT = "wan22-lake.mp4", "wan22-lake-boat.png", "wan22-left-half.png"
"""Of `workflows/input`: five seconds of a lake; masks are the transparent parts of images."""

EXPERTS = expert_nodes(*(dit(f"wan2.2_t2v_{one}_noise_14B_fp8_scaled") for one in ("high", "low")))
LORAS = tuple(
    ModelFile("loras", f"wan2.2_t2v_lightx2v_4steps_lora_v1.1_{one}_noise.safetensors", WAN22)
    for one in ("high", "low")
)

AUTUMN = (
    "An oil painting of a mountain lake in autumn, golden larches on the shore, thick visible "
    "brush strokes, a rowing boat rocks gently on the water."
)
SWAN = (
    "A white swan swims slowly on a calm mountain lake, ripples run behind it, its neck is bent, "
    "soft morning light."
)
VOYAGE = """A small harbour, the camera follows slowly from the pier, muted colours.
0-2s: Dawn. A fishing boat lies at the pier, gulls circle above it, mist drifts over the water.
2-5s: The boat leaves the harbour and sails out to sea, the sun rises, the light turns golden."""


def t2v_nodes(text: str, has_source: bool = False, **changes: Node) -> dict[str, Node]:
    """Everything of a template with the two 14B experts for text; what it loads is added."""
    return {
        **EXPERTS,
        **common_nodes(VAE_21, text, 16.0, EXPERTS if has_source else {}, UMT5),
        "size": size_node(width=832, height=480, **sized(16, {}, "480p")),
        "sampler": sampler_node(EXPERTS, steps=20),
        **changes,
    }


def changed(node: Node, **inputs: Any) -> Node:
    """A node with other values or links."""
    return replace(node, inputs={**node.inputs, **inputs})


def mask(title: str, file: str, position: Position) -> Node:
    """An image whose transparent part is a mask."""
    return Node("LoadImage", position, (400, 340), {"image": file}, title=title)


def video_nodes(prompt: str, denoise: float, **changes: Node) -> dict[str, Node]:
    """What is sampled from a video, which is brought to 81 frames of 832 x 480."""
    nodes = t2v_nodes(prompt, has_source=True)
    del nodes["size"]
    return {
        **nodes,
        "source_video": Node("LoadVideo", (0, 0), (400, 420), {"file": LAKE_VIDEO}, title="Video"),
        "frames": Node("GetVideoComponents", (450, 320), (300, 80), {"video": ("source_video", 0)}),
        "cut": Node(
            "ImageFromBatch",
            (450, 450),
            (300, 110),
            {"image": ("frames", 0), "batch_index": 0, "length": 81},
        ),
        "scale": Node(
            "ImageScale",
            (450, 610),
            (300, 180),
            {
                "image": ("cut", 0),
                "upscale_method": "lanczos",
                "width": 832,
                "height": 480,
                "crop": "center",
            },
        ),
        "encode": Node(
            "VAEEncode", (450, 840), (300, 80), {"pixels": ("scale", 0), "vae": ("vae", 0)}
        ),
        "sampler": changed(
            nodes["sampler"],
            positive=("prompt", 0),
            negative=("prompt", 1),
            latent_image=("encode", 0),
            denoise=denoise,
        ),
        **changes,
    }


VIDEO_PORTS = (
    Port("source_video", "frames", "video", is_widget=False),
    PROMPT,
    Port("width", "scale", "width"),
    Port("height", "scale", "height"),
    Port("length", "cut", "length"),
    STEPS,
    Port("denoise", "sampler", "denoise"),
)


def template(
    name: str, text: str, note: str, nodes: dict[str, Node], ports: tuple[Port, ...]
) -> Workflow:
    """A template whose blueprint has its name."""
    said = f"{text}\n\n{note}\n\n{settings_note(nodes, ports)}"
    return Workflow(name, name, text, nodes, said, ports)


def video_to_video() -> Workflow:
    """A video in another style."""
    return template(
        "Wan 2.2 Video to Video 14B",
        "Makes a video again by a prompt, with the two 14B experts at 16 fps.",
        "**denoise** says how much is new: 0.5 keeps nearly every shape, 0.8 keeps the layout. Use "
        "4n+1 frames (81 is five seconds) and sides that are multiples of 16. Below 0.5 the "
        "low-noise expert does nearly everything.",
        video_nodes(AUTUMN, 0.75),
        VIDEO_PORTS,
    )


def inpaint() -> Workflow:
    """A part of a video anew."""
    masked = {"samples": ("encode", 0), "mask": ("mask", 1)}
    nodes = video_nodes(
        SWAN,
        1.0,
        mask=mask("Mask: what is transparent is made anew", BOAT, (0, 480)),
        masked=Node("SetLatentNoiseMask", (450, 970), (300, 80), masked),
    )
    nodes["sampler"] = changed(nodes["sampler"], latent_image=("masked", 0))
    return template(
        "Wan 2.2 Inpaint Video 14B",
        "Makes a part of a video anew by a prompt, with the two 14B experts at 16 fps.",
        "The mask is the transparent part of an image, the same in all frames. To draw one, open "
        "a frame in the mask editor (right click, *Open in MaskEditor*). Everything else stays. "
        "The prompt describes the whole image.",
        nodes,
        (Port("mask", "masked", "mask", is_widget=False, output=1), *VIDEO_PORTS),
    )


def timed_prompts() -> Workflow:
    """Several prompts over time."""
    inputs = {"clip": ("text_encoder", 0), "prompts": VOYAGE, "negative": ""}
    return template(
        "Wan 2.2 Timed Prompts 14B",
        "A video from several prompts, each for its seconds, with the two 14B experts at 16 fps.",
        "A line that begins with seconds (`0-2s:`) or frames (`0-32:`) begins a prompt. What is "
        "before the first one belongs to all of them.",
        t2v_nodes("", prompt=Node("WanDuetPromptSchedule", (450, 0), (400, 280), inputs)),
        (Port("prompts", "prompt", "prompts"), *SIZE, STEPS),
    )


def regional_prompts() -> Workflow:
    """One prompt on the left, another on the right."""
    day, night = (
        f"A wide valley with a river, {what}, the camera stands still."
        for what in ("bright summer day, green meadows", "starry winter night, snow on the ground")
    )
    encode = {"clip": ("text_encoder", 0), "negative": ""}
    region = {"strength": 1.0, "set_cond_area": "default"}
    nodes = t2v_nodes(
        day,
        has_source=True,
        mask=mask("Mask: what is transparent gets the first prompt", LEFT, (0, 0)),
        other=Node("WanDuetTextEncode", (450, 320), (400, 200), {**encode, "positive": night}),
        rest=Node("InvertMask", (0, 850), (300, 60), {"mask": ("mask", 1)}),
        region=Node("InvertMask", (450, 850), (300, 60), {"mask": ("rest", 0)}),
        first_region=Node(
            "ConditioningSetMask",
            (900, 0),
            (300, 130),
            {"conditioning": ("prompt", 0), "mask": ("region", 0), **region},
        ),
        second_region=Node(
            "ConditioningSetMask",
            (900, 210),
            (300, 130),
            {"conditioning": ("other", 0), "mask": ("rest", 0), **region},
        ),
        both=Node(
            "ConditioningCombine",
            (900, 420),
            (300, 80),
            {"conditioning_1": ("first_region", 0), "conditioning_2": ("second_region", 0)},
        ),
    )
    nodes["size"] = changed(nodes["size"], positive=("both", 0)).moved(800, -320)
    nodes |= {name: nodes[name].moved(800) for name in ("sampler", "decode", "video")}
    return template(
        "Wan 2.2 Regional Prompts 14B",
        "A video with one prompt in a region and another one elsewhere, with the two 14B experts.",
        "The region is the transparent part of an image, the same in all frames. Each prompt is a "
        "forward pass of its own, so steps take half as long again with guidance.",
        nodes,
        (
            Port("mask", "rest", "mask", is_widget=False, output=1),
            PROMPT,
            Port("other_prompt", "other", "positive"),
            *SIZE,
            STEPS,
        ),
    )


def lora_per_step() -> Workflow:
    """LoRAs whose strength follows the run."""
    nodes = t2v_nodes(HARBOUR)
    for place, (name, lora, strengths) in enumerate(
        (
            ("high", LORAS[0], ((0.0, 0.5), (0.2, 1.0), (0.417, 0.0))),
            ("low", LORAS[1], ((0.0, 0.0), (0.417, 1.0))),
        )
    ):
        y = 320 + 700 * place
        values = {"lora_name": lora.name, "strength_model": 1.0, "strength_clip": 0.0}
        nodes[f"{name}_hook"] = Node("CreateHookLora", (-850, y), (400, 150), values, (lora,))
        keyframes: dict[str, Any] = {}
        for number, (start, strength) in enumerate(strengths):
            values = {"strength_mult": strength, "start_percent": start, **keyframes}
            key = f"{name}_from_{number}"
            where = (-850, y + 200 + 160 * number)
            nodes[key] = Node("CreateHookKeyframe", where, (300, 110), values)
            keyframes = {"prev_hook_kf": (key, 0)}
        links = {"hooks": (f"{name}_hook", 0), "hook_kf": keyframes["prev_hook_kf"]}
        nodes[f"{name}_timed"] = Node("SetHookKeyframes", (-400, y), (300, 80), links)
    both = {"hooks_A": ("high_timed", 0), "hooks_B": ("low_timed", 0)}
    sides = {
        "positive_NEW": ("prompt", 0),
        "negative_NEW": ("prompt", 1),
        "hooks": ("hooks", 0),
        "strength": 1.0,
        "set_cond_area": "default",
    }
    nodes |= {
        "hooks": Node("CombineHooks2", (0, 850), (300, 80), both),
        "hooked": Node("PairConditioningSetProperties", (450, 850), (400, 170), sides),
    }
    nodes["size"] = changed(nodes["size"], positive=("hooked", 0), negative=("hooked", 1))
    few = {"steps": 8, "cfg_high": 1.0, "cfg_low": 1.0, "shift": 5.0, "sampler": "euler"}
    nodes["sampler"] = changed(nodes["sampler"], **few)
    return template(
        "Wan 2.2 LoRA Strength per Step 14B",
        "4-step LoRAs whose strength follows the run, by ComfyUI's hooks, for more motion.",
        "Keyframes say from which part of the run on a LoRA has which strength. At shift 5 the "
        "low-noise expert takes over at 0.417, so a LoRA that is 0 from there on belongs to the "
        "high-noise expert. Here that one is at half strength during the first fifth.",
        nodes,
        (PROMPT, *SIZE, STEPS),
    )


EDITS = (video_to_video(), inpaint(), timed_prompts(), regional_prompts(), lora_per_step())
