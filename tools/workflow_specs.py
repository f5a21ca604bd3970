"""What the workflow templates are made of: nodes, links, settings, places and notes."""

from dataclasses import dataclass, field, replace
from typing import Any

Position = tuple[int, int]

LOADS = ("LoadImage", "LoadVideo")
"""Nodes that give a subgraph what a person chooses; they stand left of it."""

OUTSIDE = (*LOADS, "SaveVideo")
"""Nodes that stay outside of the subgraph: a person uses them by hand."""

COLUMN = 450
"""Width of a column of nodes, and what is between it and the next."""

WAN22 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
WAN21 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
MODELSCOPE = (
    "https://huggingface.co/Comfy-Org/",
    "https://www.modelscope.cn/models/Comfy-Org/",
)
"""Where the same repositories lie for people in China; their branch has another name."""


@dataclass(frozen=True)
class ModelFile:
    """A file that a node loads, and where it can be downloaded."""

    folder: str
    name: str
    repository: str | None = WAN22
    """None: it comes with the pack."""
    path: str = ""
    """Its folder in the repository, where that is not `folder`."""

    @property
    def url(self) -> str:
        """Download link."""
        return f"{self.repository}/{self.path or self.folder}/{self.name}"

    def as_dict(self) -> dict[str, str]:
        """As the editor's missing-model dialog reads it."""
        return {"name": self.name, "url": self.url, "directory": self.folder}

    def as_line(self) -> str:
        """As a line of the note."""
        if not self.repository:
            return f"- `models/{self.folder}`: {self.name}"
        line = f"- `models/{self.folder}`: [{self.name}]({self.url})"
        if not self.url.startswith(MODELSCOPE[0]):
            return line
        mirror = self.url.replace(*MODELSCOPE).replace("/resolve/main/", "/resolve/master/")
        return f"{line} ([ModelScope]({mirror}))"


@dataclass(frozen=True)
class Node:
    """A node: links are (node, output), everything else is a widget value."""

    kind: str
    position: Position
    size: Position
    inputs: dict[str, Any] = field(default_factory=dict)
    models: tuple[ModelFile, ...] = ()
    title: str = ""

    def moved(self, right: int, down: int = 0) -> "Node":
        """The same elsewhere."""
        x, y = self.position
        return replace(self, position=(x + right, y + down))


@dataclass(frozen=True)
class Port:
    """An input of a node inside that a subgraph has outside, too."""

    name: str
    node: str
    input: str
    is_widget: bool = True
    output: int = 0
    """Of the node outside that has the port's name."""
    also: tuple[str, ...] = ()
    """More nodes whose input of this name it is."""


@dataclass(frozen=True)
class Workflow:
    """One template. Its name is its file's, which is all that the editor's search knows of it."""

    name: str
    blueprint: str
    """Name of its subgraph, in the list of nodes, too."""
    description: str
    nodes: dict[str, Node]
    text: str
    ports: tuple[Port, ...]
    note_position: Position = (-420, 0)
    note_size: Position = (390, 440)

    @property
    def host_position(self) -> Position:
        """Of the subgraph: right of the images, if any."""
        return (450, 0) if any(node.kind in LOADS for node in self.nodes.values()) else (0, 0)

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
LAKE = (
    "A rowing boat rocks gently on a calm mountain lake, ripples run across the water, the clouds "
    "drift slowly over the ridge, the camera moves a little closer. Soft morning light."
)
DAY = (
    "Time lapse of a mountain lake from early morning to dusk: the sun moves across the sky, the "
    "light turns from gold to violet, the boat drifts to the other shore. The camera stands still."
)

PROMPT = Port("prompt", "prompt", "positive")
SIZE = (Port("size", "size", "size"), Port("seconds", "size", "seconds"))
QUALITY = Port("quality", "sampler", "preset")
STEPS = Port("steps", "sampler", "steps")


def ports(*images: str, choices: tuple[Port, ...] = (*SIZE, QUALITY)) -> tuple[Port, ...]:
    """Returns what a subgraph has outside, beside the seed."""
    sockets = (Port(name, "size", name, is_widget=False) for name in images)
    return (*sockets, PROMPT, *choices, STEPS)


MORNING, DUSK = "wan22-lake-morning.jpg", "wan22-lake-dusk.jpg"
"""The pack puts these images of `workflows/input` into ComfyUI's input folder."""


def settings_note(nodes: dict[str, Node], ports: tuple[Port, ...]) -> str:
    """Returns what a template's note says of the inside."""
    quality = "quality" if QUALITY in ports else "preset"
    named = "**quality**" if QUALITY in ports else "The sampler's **preset**"
    said = [
        "**Everything else is inside**: the arrow at the node's corner (Nodes 2.0: *Enter "
        "subgraph*) opens it."
    ]
    if any(node.inputs.get("preset") == "balanced" for node in nodes.values()):
        said.append(
            f"{named} `balanced` takes half as long as `official` and looks nearly the same; "
            "steps 0 are its own."
        )
    if not any("Lora" in node.kind for node in nodes.values()):
        said.append(
            "For a 4-step LoRA, put *Wan 2.2 Load LoRA Pair* behind the loader and choose "
            f"{quality} `auto` (what the LoRA is made for), or `8 steps, three phases` for more "
            "motion."
        )
    return " ".join(said)


def expert_nodes(high: ModelFile, low: ModelFile) -> dict[str, Node]:
    """Loader of a pair of experts."""
    inputs = {"high_noise_model": high.name, "low_noise_model": low.name}
    return {"experts": Node("WanDuetExpertLoader", (0, 0), (400, 190), inputs, (high, low))}


def model_nodes(model: ModelFile) -> dict[str, Node]:
    """Loader of one model for all steps."""
    inputs = {"model_name": model.name}
    return {"model": Node("WanDuetModelLoader", (0, 0), (400, 160), inputs, (model,))}


def lora_pair_node(high: ModelFile, low: ModelFile) -> Node:
    """LoRAs for a pair of experts."""
    links = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    inputs = {**links, "lora_high": high.name, "lora_low": low.name}
    return Node("WanDuetLoraPair", (COLUMN, 0), (400, 300), inputs, (high, low))


def beside_loras(nodes: dict[str, Node]) -> dict[str, Node]:
    """Moves what follows LoRAs right of them, and what their prompts and videos need below them."""
    below = {"text_encoder": 250, "vae": 250}
    return {
        name: node
        if name in ("experts", "loras") or node.kind in OUTSIDE
        else node.moved(COLUMN, below.get(name, 0))
        for name, node in nodes.items()
    }


def common_nodes(
    vae: ModelFile, prompt: str, fps: float, images: dict[str, Node], text_encoder: ModelFile
) -> dict[str, Node]:
    """Text encoder, VAE, prompt, decode and video: the same everywhere."""
    return {
        "text_encoder": Node(
            "WanDuetTextEncoderLoader",
            (0, 440),
            (400, 70),
            {"text_encoder_name": text_encoder.name},
            (text_encoder,),
        ),
        "vae": Node("WanDuetVAELoader", (0, 630), (400, 100), {"vae_name": vae.name}, (vae,)),
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
        "video": Node("CreateVideo", (1310, 200), (300, 80), {"images": ("decode", 0), "fps": fps}),
        "save": Node(
            "SaveVideo",
            (900 if images else 450, 0),
            (420, 420),
            {"video": ("video", 0), "filename_prefix": "video/Wan 2.2"},
        ),
    }


def size_node(width: int, height: int, length: int, **more: Any) -> Node:
    """Size, length and images."""
    inputs = {
        "positive": ("prompt", 0),
        "negative": ("prompt", 1),
        "vae": ("vae", 0),
        "width": width,
        "height": height,
        "length": length,
        **more,
    }
    return Node("WanDuetImageToVideo", (450, 320), (400, 340), inputs)


def sampler_node(loaders: dict[str, Node], **settings: Any) -> Node:
    """The sampler of two experts, or of one model."""
    pair = next((name for name in ("loras", "experts") if name in loaders), None)
    if pair is not None:
        links = {"model_high": (pair, 0), "model_low": (pair, 1)}
    else:
        links = {"model_high": ("model", 0)}
    inputs = {
        **links,
        "positive": ("size", 0),
        "negative": ("size", 1),
        "latent_image": ("size", 2),
        **settings,
    }
    return Node("WanDuetMoESampler", (900, 0), (360, 500), inputs)


def image(title: str, file: str, place: int = 0) -> Node:
    """An image from ComfyUI's input folder."""
    return Node("LoadImage", (0, 400 * place), (400, 340), {"image": file}, title=title)


def sized(fps: int, images: dict[str, Node], class_of_sizes: str) -> dict[str, Any]:
    """What the size node gets: images and their shape, or landscape; five seconds."""
    shape = "shape of the image" if images else "landscape"
    links = {key: (key, 0) for key in images}
    return {**links, "size": f"{class_of_sizes} {shape}", "seconds": 5.0, "length": 5 * fps + 1}


def a14b(name: str, kind: str, prompt: str, text: str, images: dict[str, Node]) -> Workflow:
    """A workflow with two experts."""
    high, low = (dit(f"wan2.2_{kind}_{expert}_noise_14B_fp8_scaled") for expert in ("high", "low"))
    loaders = expert_nodes(high, low)
    nodes = {
        **loaders,
        **common_nodes(VAE_21, prompt, 16.0, images, UMT5),
        **images,
        "size": size_node(width=832, height=480, **sized(16, images, "480p")),
        "sampler": sampler_node(loaders, preset="balanced"),
    }
    outside = ports(*images)
    return Workflow(name, name, text, nodes, f"{text}\n\n{settings_note(nodes, outside)}", outside)


def ti2v(name: str, prompt: str, text: str, images: dict[str, Node]) -> Workflow:
    """A workflow with the 5B model. One blueprint makes videos from text and from images."""
    loaders = model_nodes(TI2V)
    nodes = {
        **loaders,
        **common_nodes(VAE_22, prompt, 24.0, images, UMT5),
        **images,
        "size": size_node(width=1280, height=704, **sized(24, images, "720p")),
        "sampler": sampler_node(loaders, preset="balanced"),
    }
    blueprint = "Wan 2.2 5B"  # the editor's search shows the shortest name first
    described = "A video from text, or from a start image, with the 5B model at 24 fps."
    note = (
        f"{text}\n\nSteps 0 are those of the chosen quality. It wants wan2.2_vae, not wan_2.1_vae."
    )
    return Workflow(name, blueprint, described, nodes, note, ports("start_image"))


WORKFLOWS = (
    a14b(
        "Wan 2.2 Text to Video 14B",
        "t2v",
        HARBOUR,
        "A video from text, with the two 14B experts at 16 fps. Write a prompt and press Run.",
        {},
    ),
    a14b(
        "Wan 2.2 Image to Video 14B",
        "i2v",
        LAKE,
        "Animates an image with the two 14B experts at 16 fps. Describe the motion, not only the "
        "image. The video has the shape of the image unless you choose another size.",
        {"start_image": image("Start image", MORNING)},
    ),
    a14b(
        "Wan 2.2 First and Last Frame to Video 14B",
        "i2v",
        DAY,
        "Makes the video between two images, with the two 14B image-to-video experts at 16 fps. "
        "The first image decides the shape.",
        {
            "start_image": image("First frame", MORNING),
            "end_image": image("Last frame", DUSK, place=1),
        },
    ),
    ti2v(
        "Wan 2.2 Text to Video 5B",
        HARBOUR,
        "A video from text with the small model, 1280 x 704 at 24 fps.",
        {},
    ),
    ti2v(
        "Wan 2.2 Image to Video 5B",
        LAKE,
        "Animates an image with the small model at 24 fps. Describe the motion, not only the "
        "image. The video has the shape of the image unless you choose another size.",
        {"start_image": image("Start image", MORNING)},
    ),
)
