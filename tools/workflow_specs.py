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
    repository: str = WAN22

    @property
    def url(self) -> str:
        """Download link."""
        return f"{self.repository}/{self.folder}/{self.name}"

    def as_dict(self) -> dict[str, str]:
        """As the editor's missing-model dialog reads it."""
        return {"name": self.name, "url": self.url, "directory": self.folder}

    def as_line(self) -> str:
        """As a line of the note."""
        return f"- `models/{self.folder}`: [{self.name}]({self.url})"


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

SETTINGS_NOTE = (
    "**0 means the official value** of the loaded model, for steps, shift, boundary and both cfg; "
    "the node shows what that is. 20 steps instead of 40 save half the time at little cost. For a "
    "4-step LoRA: put `LoraLoaderModelOnly` after each model, set sampler `euler`, steps 4, both "
    "cfg 1, shift 5."
)


def expert_nodes(kind: str) -> dict[str, Node]:
    """Loader of an A14B pair."""
    high, low = (dit(f"wan2.2_{kind}_{expert}_noise_14B_fp8_scaled") for expert in ("high", "low"))
    inputs = {"high_noise_model": high.name, "low_noise_model": low.name}
    return {"experts": Node("WanDuetExpertLoader", (0, 0), (400, 190), inputs, (high, low))}


def common_nodes(vae: ModelFile, prompt: str, fps: float, prefix: str) -> dict[str, Node]:
    """Text encoder, VAE, prompt, decode and video: the same everywhere."""
    return {
        "text_encoder": Node(
            "WanDuetTextEncoderLoader",
            (0, 250),
            (400, 70),
            {"text_encoder_name": UMT5.name},
            (UMT5,),
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


def size_node(width: int, height: int, length: int, **pictures: Any) -> Node:
    """Size, length and pictures."""
    inputs = {
        "positive": ("prompt", 0),
        "negative": ("prompt", 1),
        "vae": ("vae", 0),
        "width": width,
        "height": height,
        "length": length,
        **pictures,
    }
    return Node("WanDuetImageToVideo", (450, 320), (400, 300), inputs)


def sampler_node(steps: int, **models: Any) -> Node:
    """The sampler."""
    inputs = {
        **models,
        "positive": ("size", 0),
        "negative": ("size", 1),
        "latent_image": ("size", 2),
        "steps": steps,
    }
    return Node("WanDuetMoESampler", (900, 0), (360, 640), inputs)


def picture(position: Position, title: str) -> Node:
    """A picture from ComfyUI's input folder."""
    return Node("LoadImage", position, (400, 320), {"image": "example.png"}, title=title)


def a14b(
    name: str, title: str, kind: str, prompt: str, text: str, pictures: dict[str, Node]
) -> Workflow:
    """A workflow with two experts."""
    links: dict[str, Any] = {key: (key, 0) for key in pictures}
    if pictures:
        links["size_mode"] = "keep aspect (official)"
    nodes = {
        **expert_nodes(kind),
        **common_nodes(VAE_21, prompt, 16.0, name),
        **pictures,
        "size": size_node(832, 480, 81, **links),
        "sampler": sampler_node(20, model_high=("experts", 0), model_low=("experts", 1)),
    }
    return Workflow(name, title, nodes, f"{text}\n\n{SETTINGS_NOTE}")


def ti2v(name: str, title: str, prompt: str, text: str, pictures: dict[str, Node]) -> Workflow:
    """A workflow with the 5B model."""
    links: dict[str, Any] = {key: (key, 0) for key in pictures}
    if pictures:
        links["size_mode"] = "keep aspect (official)"
    model = Node("WanDuetModelLoader", (0, 0), (400, 160), {"model_name": TI2V.name}, (TI2V,))
    nodes = {
        "model": model,
        **common_nodes(VAE_22, prompt, 24.0, name),
        **pictures,
        "size": size_node(1280, 704, 121, **links),
        "sampler": sampler_node(30, model_high=("model", 0)),
    }
    return Workflow(name, title, nodes, text)


WORKFLOWS = (
    a14b(
        "wan22_t2v_a14b",
        "Wan2.2 text to video (A14B)",
        "t2v",
        HARBOUR,
        "Text to video with the two 14B experts. Write a prompt, press Run.",
        {},
    ),
    a14b(
        "wan22_i2v_a14b",
        "Wan2.2 image to video (A14B)",
        "i2v",
        PORTRAIT,
        "Animates a picture with the two 14B experts. The picture keeps its aspect; width x height "
        "is the area. Describe the motion, not only the picture.",
        {"start_image": picture((0, 550), "Start image")},
    ),
    a14b(
        "wan22_first_last_frame_a14b",
        "Wan2.2 first and last frame (A14B)",
        "i2v",
        MORPH,
        "Makes the video between two pictures. It uses the I2V experts; the first picture decides "
        "the aspect.",
        {
            "start_image": picture((0, 550), "First frame"),
            "end_image": picture((0, 930), "Last frame"),
        },
    ),
    ti2v(
        "wan22_ti2v_5b_text",
        "Wan2.2 text to video (5B)",
        HARBOUR,
        "Text to video with the small model, 1280 x 704 at 24 fps. Mind the VAE: wan2.2_vae.\n\n"
        "0 means the official value: 50 steps, shift 5, cfg 5.",
        {},
    ),
    ti2v(
        "wan22_ti2v_5b_image",
        "Wan2.2 image to video (5B)",
        PORTRAIT,
        "Animates a picture with the small model, at 24 fps. The picture keeps its aspect; width x "
        "height is the area. Mind the VAE: wan2.2_vae.\n\n"
        "0 means the official value: 50 steps, shift 5, cfg 5.",
        {"start_image": picture((0, 550), "Start image")},
    ),
)
