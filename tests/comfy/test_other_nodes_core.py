"""Core's own nodes that change a MODEL do to ours what they do to core's: docs/compatibility.md."""

from typing import Any

import pytest

from .graphs import Prompt, node, random_text, save
from .server import ComfyServer
from .stock import (
    LORA,
    ROUNDING,
    T2V_HIGH,
    difference,
    empty_latent,
    ksampler,
    latent,
    loaders,
    relative,
)

pytestmark = pytest.mark.comfy

SIZES = {"width": 48, "height": 32, "length": 9}

EFFECTIVE: dict[str, dict[str, Any]] = {
    "APG": {"norm_threshold": 0.5},
    "CFGNorm": {"strength": 0.5},
    "CFGZeroStar": {},
    "ContextWindowsManual": {"context_length": 2, "context_overlap": 1, "dim": 2},
    "EasyCache": {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0},
    "Epsilon Scaling": {"scaling_factor": 1.1},
    "FreSca": {"scale_low": 2.0, "scale_high": 4.0},
    "LazyCache": {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0},
    "LoraLoaderModelOnly": {"lora_name": LORA},
    "LoraLoaderBypassModelOnly": {"lora_name": LORA},
    "Mahiro": {},
    "ModelNoiseScale": {"noise_scale": 0.8},
    "ModelSamplingAuraFlow": {},
    "ModelSamplingFlux": {},
    "ModelSamplingLTXV": {},
    "ModelSamplingSD3": {},
    "RescaleCFG": {},
    "ScaleROPE": {"scale_x": 0.5, "scale_t": 1.5},
    "SkipLayerGuidanceDiT": {"double_layers": "1", "scale": 1.0, "end_percent": 1.0},
    "SkipLayerGuidanceDiTSimple": {"double_layers": "1", "end_percent": 1.0},
    "SkipLayerGuidanceSD3": {"layers": "1", "scale": 1.0, "end_percent": 1.0},
    "TCFG": {},
    "TemporalScoreRescaling": {},
    "VideoLinearCFGGuidance": {},
    "VideoTriangleCFGGuidance": {},
    "WanContextWindowsManual": {"context_length": 5, "context_overlap": 1},
}
"""Widgets that differ from a node's own; nodes that a version of ComfyUI lacks are left out."""

HARMLESS: dict[str, dict[str, Any]] = {
    "ChromaRadianceOptions": {},
    "DifferentialDiffusion": {},
    "ModelAttentionBackend": {},
    "ModelComputeDtype": {"dtype": "fp32"},
    "SelectModelDevice": {},
    "wanBlockSwap": {},
}
"""Nodes without an effect here, or with one that is within rounding."""


ELSEWHERE = {
    "models of other kinds": "ARVideoI2V AnimaLLLiteApply FluxKVCache FreeU FreeU_V2 HyperTile "
    "HiDreamO1PatchSeamSmoothing LTXVModalityGuidance LTXVReferenceAudio MiniMaxH3SigmaShift "
    "LTXVSpatioTemporalGuidance ModelSamplingContinuousEDM ModelSamplingContinuousV "
    "ModelSamplingDiscrete ModelSamplingStableCascade PatchModelAddDownscale TomePatchModel "
    "PerturbedAttentionGuidance QwenImageDiffsynthControlnet RenormCFG SUPIRApply WanAnimate2Cache "
    "SelfAttentionGuidance UNetCrossAttentionMultiply UNetSelfAttentionMultiply HypernetworkLoader "
    "UNetTemporalAttentionMultiply USOStyleReference LTXVContextWindows ZImageFunControlnet "
    "TripoSplatSamplingPreview NAGuidance",
    "further inputs": "CFGOverride LatentApplyOperationCFG LoraLoader LoraLoaderBypass PerpNeg "
    "LoraModelLoader MultiGPU_WorkUnits WanUni3CControlnetApply WanInfiniteTalkToVideo",
    "no patches": "ImageOnlyCheckpointLoader ModelAdd ModelSubtract TrainLoraNode",
    "without effect (test_unknown_hooks.py)": "TorchCompileModel",
}
"""Why other nodes are not in the tables."""


def available(server: ComfyServer, table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    known: Any = server.object_info()
    return {name: options for name, options in table.items() if name in known}


def widgets(info: dict[str, Any]) -> dict[str, Any]:
    """Returns the values that a new node's widgets have."""
    found = {}
    for name, (kind, *options) in info["input"]["required"].items():
        choices = kind if isinstance(kind, list) else (options or [{}])[0].get("options", [])
        default = (options or [{}])[0].get("default", choices[0] if choices else None)
        if default is not None:
            found[name] = default
    return found


def changed(server: ComfyServer, table: dict[str, dict[str, Any]]) -> tuple[Prompt, list[str]]:
    """Samples ("NAME ours") and ("NAME stock") for each node; "" is without one."""
    known: Any = server.object_info()
    prompt = {**random_text(), **empty_latent(**SIZES)}
    for who, nodes in loaders(T2V_HIGH).items():
        prompt |= nodes
        for name, options in {"": {}, **table}.items():
            link = (who, 0)
            if name:
                values = {**widgets(known[name]), **options, "model": link}
                prompt[f"{name} {who} patch"] = node(name, **values)
                link = (f"{name} {who} patch", 0)
            prompt |= ksampler(link, f"{name} {who}", steps=4 if "Cache" in name else 2, cfg=2.0)
            prompt |= save(f"core {name} {who}", latent=(f"{name} {who}", 0))
    return prompt, ["", *table]


@pytest.mark.parametrize("table", [EFFECTIVE, HARMLESS], ids=["effective", "harmless"])
def test_they_change_both_models_alike(comfy_server: ComfyServer, table: dict[str, dict[str, Any]]):
    prompt, names = changed(comfy_server, available(comfy_server, table))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    saved = {
        name: [latent(comfy_server, f"core {name} {who}") for who in ("ours", "stock")]
        for name in names
    }
    errors = {name: relative(*both) for name, both in saved.items()}
    assert {name: error for name, error in errors.items() if error > ROUNDING} == {}
    plain, _ = saved[""]
    without = {name for name in names if difference(saved[name][0], plain) < 1e-3}
    assert without == ({""} if table is EFFECTIVE else set(names))
    said = {name: result.texts(f"{name} ours") for name in names}
    assert {n: t for n, t in said.items() if any("no effect" in text for text in t)} == {}


def test_no_node_of_core_is_forgotten(comfy_server: ComfyServer):
    known: Any = comfy_server.object_info()
    nodes = {
        name
        for name, info in known.items()
        if info["python_module"] in ("nodes", "comfy_extras")
        or "comfy_extras" in info["python_module"]
        if any(kind[0] == "MODEL" for kind in info["input"].get("required", {}).values())
        and "MODEL" in info["output"]
    }
    elsewhere = " ".join(ELSEWHERE.values()).split()
    merges = {name for name in nodes if name.startswith("ModelMerge")}
    assert nodes - merges - {*EFFECTIVE, *HARMLESS, *elsewhere} == set()
