"""The templates of the tiny models that come with the pack."""

from workflow_specs import (
    ModelFile,
    Node,
    Workflow,
    beside_loras,
    common_nodes,
    expert_nodes,
    image,
    lora_pair_node,
    model_nodes,
    ports,
    sampler_node,
    size_node,
)


def shipped(folder: str, name: str) -> ModelFile:
    """A file of the tiny model, which comes with the pack."""
    return ModelFile(folder, f"wan22-tiny-{name}.safetensors", None)


def tiny_experts(kind: str) -> tuple[ModelFile, ModelFile]:
    """The tiny high-noise and low-noise expert."""
    high, low = (f"{kind}-{expert}-noise" for expert in ("high", "low"))
    return shipped("diffusion_models", high), shipped("diffusion_models", low)


def tiny_loras(kind: str) -> tuple[ModelFile, ModelFile]:
    """The 4-step LoRAs of both tiny experts."""
    high, low = (f"{kind}-lightning-{expert}-noise" for expert in ("high", "low"))
    return shipped("loras", high), shipped("loras", low)


TINY_UMT5 = shipped("text_encoders", "umt5")
TINY_TI2V = shipped("diffusion_models", "ti2v")
TINY_VAE_21, TINY_VAE_22 = shipped("vae", "wan21-vae"), shipped("vae", "wan22-vae")

TI2V_CFG = 3.0
"""Its shapes are cleaner than with the official 5."""
TI2V_NOTE = (
    "The sampler's `cfg_high` is 3, at which this tiny model draws its cleanest shapes. With the "
    "full-size model set it to 0, which is the official 5."
)

CIRCLE = "wan22-tiny-circle.png"
TINY_NOTE = (
    "The models come with WanDuet: nothing to download, and a run takes seconds, on a CPU too. "
    "They are Wan 2.2 in every part, but tiny, and they have seen **coloured shapes only**: "
    "circles, squares, triangles, stars and rings that move, rotate, grow, shrink, bounce or "
    "orbit, in 17 frames of 128 x 128, or 192 x 192 for text or image to video. Try *a cyan "
    "square shrinks on a navy background*. They can't draw a cat."
)

FOUR_STEPS_NOTE = (
    "The LoRAs behind the loader are made for **4 steps without guidance**, ten times faster. "
    "Nothing else is set: steps 0 and quality `auto` are what the LoRAs want, and the sampler's "
    "plan says so. A real 4-step LoRA for the 14B experts is used in the same way."
)


def tiny(
    name: str,
    prompt: str,
    text: str,
    loaders: dict[str, Node],
    vae: ModelFile,
    has_image: bool,
    seed: int = 0,
) -> Workflow:
    """A workflow with the models that come with the pack, and a seed whose video is a clean one."""
    images = {"start_image": image("Start image", CIRCLE)} if has_image else {}
    is_ti2v = vae == TINY_VAE_22
    fps, side = (24.0, 192) if is_ti2v else (16.0, 128)
    few = "loras" in loaders
    settings = {"steps": 0 if few else 20, "seed": seed}
    settings |= {"cfg_high": TI2V_CFG} if is_ti2v else {}
    nodes = {
        **loaders,
        **common_nodes(vae, prompt, fps, images, TINY_UMT5),
        **images,
        "size": size_node(side, side, 17, **{key: (key, 0) for key in images}),
        "sampler": sampler_node(loaders, **settings),
    }
    nodes = beside_loras(nodes) if few else nodes
    more = [FOUR_STEPS_NOTE] if few else [TI2V_NOTE] if is_ti2v else []
    note = "\n\n".join((text, *more, TINY_NOTE))
    return Workflow(name, name, text, nodes, note, ports(*images, choices=()))


TINY_WORKFLOWS = (
    tiny(
        "Wan 2.2 Tiny Text to Video (No Download)",
        "a red circle moves right on a light grey background",
        "A video from text with two tiny experts. Write a prompt and press Run.",
        expert_nodes(*tiny_experts("t2v")),
        TINY_VAE_21,
        has_image=False,
        seed=3,
    ),
    tiny(
        "Wan 2.2 Tiny Image to Video (No Download)",
        "a blue circle moves right on a beige background",
        "Animates an image with two tiny experts. Describe the motion, not only the image.",
        expert_nodes(*tiny_experts("i2v")),
        TINY_VAE_21,
        has_image=True,
    ),
    tiny(
        "Wan 2.2 Tiny Text to Video 4 Steps (No Download)",
        "a green square moves down on a light grey background",
        "A video from text in 4 steps, with two tiny experts and their 4-step LoRAs.",
        {**expert_nodes(*tiny_experts("t2v")), "loras": lora_pair_node(*tiny_loras("t2v"))},
        TINY_VAE_21,
        has_image=False,
        seed=5,
    ),
    tiny(
        "Wan 2.2 Tiny Image to Video 4 Steps (No Download)",
        "a blue circle moves right on a beige background",
        "Animates an image in 4 steps, with two tiny experts and their 4-step LoRAs.",
        {**expert_nodes(*tiny_experts("i2v")), "loras": lora_pair_node(*tiny_loras("i2v"))},
        TINY_VAE_21,
        has_image=True,
    ),
    tiny(
        "Wan 2.2 Tiny Text or Image to Video (No Download)",
        "a blue circle moves up on a beige background",
        "One tiny model for both: take the image away, and it makes a video from text alone.",
        model_nodes(TINY_TI2V),
        TINY_VAE_22,
        has_image=True,
    ),
)
