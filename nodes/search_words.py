"""What people type who look for a node, beside its name."""

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

WAN = ("wan 2.2", "wan2.2", "wan22", "wan video")

WORDS: dict[str, tuple[str, ...]] = {
    "WanDuetModelLoader": (
        *("load diffusion model", "unet loader", "checkpoint", "ti2v 5b", "gguf", "fp8", "nvfp4"),
        *("sage attention", "flash attention"),
    ),
    "WanDuetExpertLoader": (
        *("load diffusion model", "unet loader", "high noise low noise", "moe", "a14b", "t2v"),
        *("i2v", "gguf", "fp8", "int8", "sage attention", "flash attention"),
    ),
    "WanDuetLoraPair": (
        *("lora", "lightning", "lightx2v", "4 steps", "lora loader model only", "high low lora"),
        "distill",
    ),
    "WanDuetVAELoader": ("vae loader", "taehv", "taew2_1", "lighttae"),
    "WanDuetTextEncoderLoader": ("clip loader", "umt5", "t5", "load clip"),
    "WanDuetTextEncode": ("clip text encode", "prompt", "negative prompt"),
    "WanDuetPromptSchedule": (
        *("prompt travel", "prompt relay", "timed prompts", "several prompts", "keyframe prompts"),
        "clip text encode",
    ),
    "WanDuetCinematic": (
        *("prompt builder", "camera", "lighting", "shot size", "style", "prompt styler"),
    ),
    "WanDuetPromptExtend": (
        *("prompt enhancer", "llm", "ollama", "lm studio", "openai", "qwen", "prompt generator"),
    ),
    "WanDuetImageToVideo": (
        *("i2v", "t2v", "text to video", "empty latent video", "first frame last frame", "flf2v"),
        *("start image", "video size"),
    ),
    "WanDuetMoESampler": (
        "ksampler",
        "ksampler advanced",
        "moe",
        "two experts",
        "4 steps",
        "unipc",
    ),
    "WanDuetDistribute": (
        *("multi gpu", "multigpu", "several gpus", "two gpus", "parallel", "distributed", "ray"),
        *("raylight", "ulysses", "sequence parallel", "usp"),
    ),
    "WanDuetNAG": (
        *("nag", "normalized attention guidance", "negative prompt", "wanvideo nag", "cfg 1"),
        "lightning",
    ),
    "WanDuetContextWindows": (
        *("context windows", "context options", "long video", "infinite", "free noise"),
        *("longer than 5 seconds", "loop", "animatediff"),
    ),
    "WanDuetMoEGuider": ("cfg guider", "dual guider", "moe"),
    "WanDuetSigmas": ("scheduler", "shift", "model sampling sd3"),
    "WanDuetSamplerSelect": ("ksampler select", "unipc", "dpm++"),
    "WanDuetVAEDecode": ("vae decode tiled", "decode video"),
    "WanDuetJoinClips": (
        *("join videos", "concatenate", "extend video", "long video", "crossfade", "colour match"),
        *("color match", "stitch", "loop", "vae decode", "create video"),
    ),
    "WanDuetMemory": ("vram", "block swap", "blockswap", "low vram", "offload", "ram"),
    "WanDuetStepCache": ("teacache", "magcache", "easycache", "faster"),
    "WanDuetSaveModel": ("model save", "save checkpoint", "bake lora", "quantize", "convert"),
    "WanDuetCompare": ("compare", "image comparer", "a/b", "difference", "wipe", "side by side"),
    "WanDuetCompile": ("torch compile", "compile model", "inductor", "faster"),
}


def search_words(node_id: str) -> dict[str, Any]:
    """Returns what a schema takes beside its other arguments: nothing in older versions."""
    known = any(field.name == "search_aliases" for field in fields(io.Schema))
    return {"search_aliases": [*WAN, *WORDS[node_id]]} if known else {}
