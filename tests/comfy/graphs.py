"""Short ways to write API-format prompts."""

from typing import Any

Prompt = dict[str, Any]

T2V = ("toy_t2v_high_noise.safetensors", "toy_t2v_low_noise.safetensors")
I2V = ("toy_i2v_high_noise.safetensors", "toy_i2v_low_noise.safetensors")
TI2V = "toy_ti2v.safetensors"
VAE_21, VAE_22 = "toy_wan_2.1_vae.safetensors", "toy_wan2.2_vae.safetensors"
TEXT_ENCODER = "toy_umt5.safetensors"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node; a tuple (node, output) is a link."""
    linked = {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}
    return {"class_type": class_type, "inputs": linked}


def experts(files: tuple[str, str] = T2V, **options: Any) -> Prompt:
    """Loads a pair: outputs ("experts", 0) and ("experts", 1)."""
    options = {"precision": "fp32", "attention": "sdpa", **options}
    names = {"high_noise_model": files[0], "low_noise_model": files[1]}
    return {"experts": node("WanDuetExpertLoader", **names, **options)}


def model(name: str, node_id: str = "model", **options: Any) -> Prompt:
    """Loads one model with our loader."""
    options = {"precision": "fp32", "attention": "sdpa", **options}
    return {node_id: node("WanDuetModelLoader", model_name=name, **options)}


def memory(**options: Any) -> Prompt:
    """Limits of memory, automatic by default: ("memory", 0)."""
    automatic = {"vram_budget_gb": 0.0, "blocks_to_swap": -1, "pinned_ram_gb": -1.0}
    return {"memory": node("WanDuetMemory", **{**automatic, "prefetch_blocks": -1, **options})}


def stock_model(name: str, node_id: str = "stock_model") -> Prompt:
    """Loads one model with core's loader, computing in fp32 on the CPU."""
    return {node_id: node("UNETLoader", unet_name=name, weight_dtype="default")}


def vae(name: str = VAE_21, node_id: str = "vae") -> Prompt:
    """Loads a VAE with our loader."""
    return {node_id: node("WanDuetVAELoader", vae_name=name, precision="fp32")}


def prompts(positive: str = "a red ball rolls", negative: str = "") -> Prompt:
    """Encodes with our nodes: outputs ("text", 0) and ("text", 1)."""
    return {
        "clip": node("WanDuetTextEncoderLoader", text_encoder_name=TEXT_ENCODER),
        "text": node("WanDuetTextEncode", clip=("clip", 0), positive=positive, negative=negative),
    }


def random_text(text_dim: int = 4096, tokens: int = 512) -> Prompt:
    """Random embeddings: outputs ("positive", 0) and ("negative", 0)."""
    return {
        name: node("WanDuetTestConditioning", seed=seed, tokens=tokens, text_dim=text_dim)
        for seed, name in enumerate(("positive", "negative"))
    }


def image_to_video(**options: Any) -> Prompt:
    """Size and images: outputs ("size", 0..2)."""
    defaults = {
        "positive": ("text", 0),
        "negative": ("text", 1),
        "vae": ("vae", 0),
        "width": 64,
        "height": 48,
        "length": 5,
        "batch_size": 1,
    }
    return {"size": node("WanDuetImageToVideo", **{**defaults, **options})}


def moe_sampler(node_id: str = "sampler", **options: Any) -> Prompt:
    """Our sampler, on `experts` and `image_to_video`."""
    defaults = {
        "model_high": ("experts", 0),
        "model_low": ("experts", 1),
        "positive": ("size", 0),
        "negative": ("size", 1),
        "latent_image": ("size", 2),
        "seed": 7,
        "steps": 4,
        "cfg_high": 1.0,
        "cfg_low": 1.0,
        "sampler": "euler",
        "scheduler": "wan",
        "shift": 5.0,
        "boundary": 0.0,
        "denoise": 1.0,
        "start_at_step": 0,
        "end_at_step": 10000,
        "add_noise": "enable",
        "return_with_leftover_noise": "disable",
    }
    merged = {**defaults, **options}
    if merged["model_low"] is None and "end_at_step" not in options:
        merged["end_at_step"] = 9999  # one expert alone for all steps: refused unless it is said
    return {
        node_id: node("WanDuetMoESampler", **{k: v for k, v in merged.items() if v is not None})
    }


def save(name: str, node_id: str | None = None, **tensors: Any) -> Prompt:
    """Writes tensors exactly, to be read by `ComfyServer.output`."""
    return {node_id or f"save_{name}": node("WanDuetTestSaveTensors", name=name, **tensors)}
