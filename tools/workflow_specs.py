"""What the workflow templates are made of: nodes, links, settings, places and notes."""

from dataclasses import dataclass, field
from typing import Any

Position = tuple[int, int]

WAN22 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
WAN21 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"


@dataclass(frozen=True)
class ModelFile:
    """A file that a node loads, and where it can be downloaded."""

    folder: str
    name: str
    repository: str | None = WAN22
    """None: it comes with the pack."""

    @property
    def url(self) -> str:
        """Download link."""
        return f"{self.repository}/{self.folder}/{self.name}"

    def as_dict(self) -> dict[str, str]:
        """As the editor's missing-model dialog reads it."""
        return {"name": self.name, "url": self.url, "directory": self.folder}

    def as_line(self) -> str:
        """As a line of the note."""
        name = f"[{self.name}]({self.url})" if self.repository else self.name
        return f"- `models/{self.folder}`: {name}"


@dataclass(frozen=True)
class Node:
    """A node: links are (node, output), everything else is a widget value."""

    kind: str
    position: Position
    size: Position
    inputs: dict[str, Any] = field(default_factory=dict)
    models: tuple[ModelFile, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Workflow:
    """One template."""

    name: str
    title: str
    nodes: dict[str, Node]
    text: str
    note_position: Position = (-420, 0)
    note_size: Position = (390, 560)

    @property
    def note(self) -> str:
        """Explanation and model links, Markdown."""
        files = [model for node in self.nodes.values() for model in node.models]
        lines = "\n".join(model.as_line() for model in files)
        return f"{self.text}\n\n### Models\n{lines}\n"


def dit(name: str) -> ModelFile:
    """A transformer file."""
    return ModelFile("diffusion_models", f"{name}.safetensors")


UMT5 = ModelFile("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors", WAN21)
VAE_21 = ModelFile("vae", "wan_2.1_vae.safetensors")
VAE_22 = ModelFile("vae", "wan2.2_vae.safetensors")
TI2V = dit("wan2.2_ti2v_5B_fp16")

HARBOUR = (
    "A fishing boat leaves a small harbour at dawn, gulls circle above its mast, mist drifts over "
    "the water, the camera follows slowly from the pier. Soft side light, muted colours."
)
PORTRAIT = (
    "The subject turns its head towards the camera and blinks, a light breeze moves through the "
    "scene, the camera comes a little closer. Natural light, calm mood."
)
MORPH = "The camera glides from the first scene to the last in one continuous, smooth motion."


def shipped(folder: str, name: str) -> ModelFile:
    """A file of the tiny model, which comes with the pack."""
    return ModelFile(folder, f"wan22-tiny-{name}.safetensors", None)


def tiny_experts(kind: str) -> tuple[ModelFile, ModelFile]:
    """The tiny high-noise and low-noise expert."""
    high, low = (f"{kind}-{expert}-noise" for expert in ("high", "low"))
    return shipped("diffusion_models", high), shipped("diffusion_models", low)


TINY_UMT5 = shipped("text_encoders", "umt5")
TINY_TI2V = shipped("diffusion_models", "ti2v")
TINY_VAE_21, TINY_VAE_22 = shipped("vae", "wan21-vae"), shipped("vae", "wan22-vae")

CIRCLE = "wan22-tiny-circle.png"
"""The pack puts this image of `workflows/input` into ComfyUI's input folder."""

TINY_NOTE = (
    "The models come with WanDuet: nothing to download, and a run takes seconds, on a CPU too. "
    "They are Wan 2.2 in every part, but tiny, and they have seen **coloured shapes only**: "
    "circles, squares, triangles, stars and rings that move, rotate, grow, shrink, bounce or "
    "orbit, in 17 frames of 128 x 128. Try *a cyan square shrinks on a navy background*. They "
    "can't draw a cat."
)

SETTINGS_NOTE = (
    "**0 means the official value** of the loaded model, for steps, shift, boundary and both cfg; "
    "the node shows what that is. 20 steps take half as long as 40 and look nearly the same. For a "
    "4-step LoRA: put `LoraLoaderModelOnly` after each model, set sampler `euler`, steps 4, both "
    "cfg 1, shift 5."
)


def expert_nodes(high: ModelFile, low: ModelFile) -> dict[str, Node]:
    """Loader of a pair of experts."""
    inputs = {"high_noise_model": high.name, "low_noise_model": low.name}
    return {"experts": Node("WanDuetExpertLoader", (0, 0), (400, 190), inputs, (high, low))}


def model_nodes(model: ModelFile) -> dict[str, Node]:
    """Loader of one model for all steps."""
    inputs = {"model_name": model.name}
    return {"model": Node("WanDuetModelLoader", (0, 0), (400, 160), inputs, (model,))}


def common_nodes(
    vae: ModelFile, prompt: str, fps: float, prefix: str, text_encoder: ModelFile = UMT5
) -> dict[str, Node]:
    """Text encoder, VAE, prompt, decode and video: the same everywhere."""
    return {
        "text_encoder": Node(
            "WanDuetTextEncoderLoader",
            (0, 250),
            (400, 70),
            {"text_encoder_name": text_encoder.name},
            (text_encoder,),
        ),
        "vae": Node("WanDuetVAELoader", (0, 390), (400, 100), {"vae_name": vae.name}, (vae,)),
        "prompt": Node(
            "WanDuetTextEncode",
            (450, 0),
            (400, 260),
            {"clip": ("text_encoder", 0), "positive": prompt, "negative": ""},
        ),
        "decode": Node(
            "WanDuetVAEDecode",
            (1310, 0),
            (300, 100),
            {"vae": ("vae", 0), "samples": ("sampler", 0)},
        ),
        "video": Node("CreateVideo", (1310, 160), (300, 80), {"images": ("decode", 0), "fps": fps}),
        "save": Node(
            "SaveVideo",
            (1650, 0),
            (420, 420),
            {"video": ("video", 0), "filename_prefix": f"video/{prefix}"},
        ),
    }


def size_node(width: int, height: int, length: int, **images: Any) -> Node:
    """Size, length and images."""
    inputs = {
        "positive": ("prompt", 0),
        "negative": ("prompt", 1),
        "vae": ("vae", 0),
        "width": width,
        "height": height,
        "length": length,
        **images,
    }
    return Node("WanDuetImageToVideo", (450, 320), (400, 300), inputs)


def sampler_node(steps: int, loaders: dict[str, Node]) -> Node:
    """The sampler of two experts, or of one model."""
    if "experts" in loaders:
        links = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    else:
        links = {"model_high": ("model", 0)}
    inputs = {
        **links,
        "positive": ("size", 0),
        "negative": ("size", 1),
        "latent_image": ("size", 2),
        "steps": steps,
    }
    return Node("WanDuetMoESampler", (900, 0), (360, 640), inputs)


def image(position: Position, title: str, file: str = "example.png") -> Node:
    """An image from ComfyUI's input folder."""
    return Node("LoadImage", position, (400, 320), {"image": file}, title=title)


def a14b(
    name: str, title: str, kind: str, prompt: str, text: str, images: dict[str, Node]
) -> Workflow:
    """A workflow with two experts."""
    links: dict[str, Any] = {key: (key, 0) for key in images}
    if images:
        links["size_mode"] = "keep aspect (official)"
    high, low = (dit(f"wan2.2_{kind}_{expert}_noise_14B_fp8_scaled") for expert in ("high", "low"))
    loaders = expert_nodes(high, low)
    nodes = {
        **loaders,
        **common_nodes(VAE_21, prompt, 16.0, name),
        **images,
        "size": size_node(832, 480, 81, **links),
        "sampler": sampler_node(20, loaders),
    }
    return Workflow(name, title, nodes, f"{text}\n\n{SETTINGS_NOTE}")


def ti2v(name: str, title: str, prompt: str, text: str, images: dict[str, Node]) -> Workflow:
    """A workflow with the 5B model."""
    links: dict[str, Any] = {key: (key, 0) for key in images}
    if images:
        links["size_mode"] = "keep aspect (official)"
    loaders = model_nodes(TI2V)
    nodes = {
        **loaders,
        **common_nodes(VAE_22, prompt, 24.0, name),
        **images,
        "size": size_node(1280, 704, 121, **links),
        "sampler": sampler_node(30, loaders),
    }
    return Workflow(name, title, nodes, text)


def tiny(
    kind: str, title: str, prompt: str, text: str, loaders: dict[str, Node], vae: ModelFile
) -> Workflow:
    """A workflow with the models that come with the pack."""
    name = f"wan22_tiny_{kind}"
    fps = 24.0 if kind == "ti2v" else 16.0
    images = {} if kind == "t2v" else {"start_image": image((0, 550), "Start image", CIRCLE)}
    nodes = {
        **loaders,
        **common_nodes(vae, prompt, fps, name, TINY_UMT5),
        **images,
        "size": size_node(128, 128, 17, **{key: (key, 0) for key in images}),
        "sampler": sampler_node(20, loaders),
    }
    return Workflow(name, title, nodes, f"{text}\n\n{TINY_NOTE}")


WORKFLOWS = (
    a14b(
        "wan22_t2v_a14b",
        "Wan 2.2 text to video (A14B)",
        "t2v",
        HARBOUR,
        "Text to video with the two 14B experts. Write a prompt and press Run.",
        {},
    ),
    a14b(
        "wan22_i2v_a14b",
        "Wan 2.2 image to video (A14B)",
        "i2v",
        PORTRAIT,
        "Animates an image with the two 14B experts. The image keeps its aspect; width x height "
        "is the area. Describe the motion, not only the image.",
        {"start_image": image((0, 550), "Start image")},
    ),
    a14b(
        "wan22_first_last_frame_a14b",
        "Wan 2.2 first and last frame (A14B)",
        "i2v",
        MORPH,
        "Makes the video between two images. It uses the I2V experts; the first image decides "
        "the aspect.",
        {
            "start_image": image((0, 550), "First frame"),
            "end_image": image((0, 930), "Last frame"),
        },
    ),
    ti2v(
        "wan22_ti2v_5b_text",
        "Wan 2.2 text to video (5B)",
        HARBOUR,
        "Text to video with the small model, 1280 x 704 at 24 fps. Use wan2.2_vae, not "
        "wan_2.1_vae.\n\n0 means the official value: 50 steps, shift 5, cfg 5.",
        {},
    ),
    ti2v(
        "wan22_ti2v_5b_image",
        "Wan 2.2 image to video (5B)",
        PORTRAIT,
        "Animates an image with the small model, at 24 fps. The image keeps its aspect; width x "
        "height is the area. Use wan2.2_vae, not wan_2.1_vae.\n\n"
        "0 means the official value: 50 steps, shift 5, cfg 5.",
        {"start_image": image((0, 550), "Start image")},
    ),
    tiny(
        "t2v",
        "Wan 2.2 tiny: text to video",
        "a red circle moves right on a light grey background",
        "Text to video with two tiny experts. Write a prompt and press Run.",
        expert_nodes(*tiny_experts("t2v")),
        TINY_VAE_21,
    ),
    tiny(
        "i2v",
        "Wan 2.2 tiny: image to video",
        "a blue circle moves right on a beige background",
        "Animates an image with two tiny experts. Describe the motion, not only the image.",
        expert_nodes(*tiny_experts("i2v")),
        TINY_VAE_21,
    ),
    tiny(
        "ti2v",
        "Wan 2.2 tiny: text and image to video (TI2V)",
        "a blue circle moves up on a beige background",
        "One tiny model for both: take the image away, and it makes a video from text alone.",
        model_nodes(TINY_TI2V),
        TINY_VAE_22,
    ),
)
