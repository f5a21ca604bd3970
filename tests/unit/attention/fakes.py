"""Packages of kernels that compute exactly, in the layouts and with the rules of the real ones."""

from types import SimpleNamespace
from typing import Any

import torch

from wan_model.attention import Platform
from wan_model.attention.sage import FP8_CUDA, FP8_SM90, FP16_CUDA, FP16_TRITON

GPU = "NVIDIA Test GPU"


def exact(q, k, v):
    """Returns softmax(q k^T / sqrt(D)) v in float64 for (B, L, H, D) and (B, S, H, D)."""
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhls,bshd->blhd", scores.softmax(dim=-1), v)


def tokens_first(q, k, v):
    """A kernel of layout (B, L, H, D)."""
    return exact(q, k, v).to(v.dtype)


def heads_first(q, k, v):
    """A kernel of layout (B, H, L, D)."""
    return tokens_first(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


class Sage:
    """A function of sageattention: two layouts, smoothing in place as version 1 does it."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def __call__(self, q, k, v, tensor_layout="HND", smooth_k=True, **options):
        self.options = {"smooth_k": smooth_k, **options}
        if smooth_k:
            k -= k.mean(dim=1 if tensor_layout == "NHD" else 2, keepdim=True)
        return (tokens_first if tensor_layout == "NHD" else heads_first)(q, k, v)


class SageTwo(Sage):
    """The same of version 2, which leaves k as it is."""

    def __call__(self, q, k, v, **options):
        return super().__call__(q, k.clone(), v, **options)


def sage_1() -> dict[str, Any]:
    """Returns the modules of sageattention 1."""
    return {"sageattention": SimpleNamespace(sageattn=Sage())}


def sage_2(*without: str, **flags: bool) -> dict[str, Any]:
    """Returns the modules of sageattention 2, without some functions, with build flags."""
    entries = (FP16_TRITON, FP16_CUDA, FP8_CUDA, FP8_SM90)
    functions = {entry.function: SageTwo() for entry in entries if entry.name not in without}
    return {
        "sageattention": SimpleNamespace(sageattn=Sage(), **functions),
        "sageattention.core": SimpleNamespace(**flags),
    }


def flash(result=lambda out: out) -> SimpleNamespace:
    """Returns a module with `flash_attn_func`; `result` makes what it returns of the output."""
    return SimpleNamespace(flash_attn_func=lambda q, k, v: result(tokens_first(q, k, v)))


def flash_fp8(q, k, v, *, q_descale, k_descale, v_descale):
    """FlashAttention-3's `flash_attn_func` for fp8, with its rounding of the weights left out."""

    def real(x, descale):
        assert x.dtype == torch.float8_e4m3fn
        assert descale.dtype == torch.float32
        assert descale.shape == (x.shape[0], x.shape[2])
        return x.double() * descale[:, None, :, None]

    return exact(real(q, q_descale), real(k, k_descale), real(v, v_descale)).bfloat16()


def kitchen(available: bool = True) -> SimpleNamespace:
    """Returns comfy_kitchen."""
    return SimpleNamespace(
        int8_attention=heads_first,
        int8_attention_is_available=lambda: available,
        sol_attn=lambda q, k, v, **_: tokens_first(q, k, v),
        sol_attn_is_available=lambda: available,
    )


def platform(
    modules: dict[str, Any] | None = None,
    capability: tuple[int, int] = (9, 0),
    kind: Any = "cuda",
    versions: dict[str, str] | None = None,
) -> Platform:
    """Returns a platform with these modules; an exception among them is raised on import."""
    modules, versions = modules or {}, versions or {}

    def find(name: str) -> Any:
        if name not in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if isinstance(modules[name], Exception):
            raise modules[name]
        return modules[name]

    return Platform(kind, GPU, capability, find, versions.get)
