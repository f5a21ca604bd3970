"""Guidance by a negative prompt inside cross-attention, on MODELs of ours and of core.

Ours are given it with the inputs of their blocks. Core's Wan model has no such place: there it
takes the place of the `forward` of each cross-attention, as other nodes do it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.ldm.wan.model import WanT2VCrossAttention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....wan_model.attention import AttentionFn
from ....wan_model.dit.text_guidance import GuidanceSettings, Guide, NegativeText, fastest_guide
from ....wan_model.errors import PairingError
from . import facts
from .comfy_dit import ComfyWanDiT
from .core_block import attend_as_core
from .forward_pass import NEGATIVE

READY = "wanduet.negative_text_of_this_pass"
"""Transformer option of core's models: the `NegativeText` of a forward pass, or None."""

LAYERS = "diffusion_model.blocks.{}.cross_attn.forward"


class TextGuidance:
    """A negative prompt and its settings: what travels in the options of a MODEL."""

    def __init__(self, negative: Tensor, settings: GuidanceSettings) -> None:
        """Computes nothing yet.

        Args:
            negative: of a text encoder (1, S, text_dim).
            settings: how far tokens are moved away from it.
        """
        self._negative, self._settings = negative, settings
        self._guides: dict[torch.device, Guide] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "TextGuidance":
        """Older versions of ComfyUI copy options with everything in them."""
        return self

    def at(
        self, options: dict[str, Any], embed: Callable[[Tensor], Tensor], x: Tensor
    ) -> NegativeText | None:
        """Returns the guidance of one forward pass; None if it has no sample with the prompt.

        Args:
            options: ComfyUI's transformer options, which say what samples are conditioned by.
            embed: the model's embedding of text.
            x: fp32 or of the model's dtype (B, ...); it tells batch and device.
        """
        kinds = options.get("cond_or_uncond") or [0]
        if 0 not in kinds:
            return None
        alpha = torch.zeros(len(x), device=x.device)
        for kind, samples in zip(kinds, alpha.chunk(len(kinds)), strict=True):
            samples.fill_(self._settings.alpha if kind == 0 else 0.0)
        embedded = embed(self._negative.to(x.device))
        return NegativeText(embedded, alpha, self._settings, self._guide_on(x.device))

    def _guide_on(self, device: torch.device) -> Guide:
        if device not in self._guides:
            self._guides[device] = fastest_guide(device)
        return self._guides[device]


def with_text_guidance(
    model: ModelPatcher, negative: Any, settings: GuidanceSettings
) -> ModelPatcher:
    """Returns a clone of a MODEL whose tokens keep away from a negative prompt.

    Args:
        model: ours or core's.
        negative: CONDITIONING of one prompt.
        settings: how far.

    Raises:
        PairingError: if the MODEL or the CONDITIONING cannot be used so.
    """
    known = facts.model_facts(model)
    guided = model.clone()
    guidance = TextGuidance(_only_text(negative, known), settings)
    options = guided.model_options
    transformer_options = {**options.get("transformer_options", {}), NEGATIVE: guidance}
    guided.model_options = {**options, "transformer_options": transformer_options}
    if not isinstance(model.model.diffusion_model, ComfyWanDiT):
        _guide_core(guided, known.label)
    return guided


def _only_text(negative: Any, known: facts.ModelFacts) -> Tensor:
    if len(negative) != 1:
        raise PairingError(
            f"The negative prompt must be one text. Got {len(negative)} conditionings, need 1. "
            "Connect 'negative' of 'Wan 2.2 Prompt'."
        )
    text: Tensor = negative[0][0]
    if text.shape[-1] != known.text_dim:
        raise PairingError(
            f"The negative prompt does not fit the model. Got embeddings of width "
            f"{text.shape[-1]}, {known.label} needs {known.text_dim}. Use the umT5 text encoder."
        )
    return text[:1]


def _guide_core(guided: ModelPatcher, label: str) -> None:
    """Has the cross-attention of core's model do it."""
    blocks = getattr(guided.model.diffusion_model, "blocks", ())
    layers = [getattr(block, "cross_attn", None) for block in blocks]
    if not layers or any(type(layer) is not WanT2VCrossAttention for layer in layers):
        raise PairingError(
            f"This MODEL has no cross-attention that can be guided by a negative prompt. Got "
            f"{label}, need a Wan 2.2 model. Load it with 'Wan 2.2 Load Model'."
        )
    places = [LAYERS.format(i) for i in range(len(layers))]
    there = [guided.object_patches.get(place) for place in places]
    if any(not isinstance(patch, GuidedCrossAttention | None) for patch in there):
        raise PairingError(
            "Another node has taken the place of this model's cross-attention. Got its patch, "
            "need it free. Remove that node, or load the model with 'Wan 2.2 Load Model'."
        )
    for place, layer in zip(places, layers, strict=True):
        guided.add_object_patch(place, GuidedCrossAttention(layer))
    guided.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, NEGATIVE)
    guided.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, NEGATIVE, _prepare_core)


def _prepare_core(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Embeds the negative prompt once in a forward pass of core's model."""
    options = kwargs.get("transformer_options") or next(
        one for one in args if isinstance(one, dict) and NEGATIVE in one
    )
    context = args[1] if len(args) > 1 else kwargs["context"]
    guidance: TextGuidance = options[NEGATIVE]

    def embed(text: Tensor) -> Tensor:
        return executor.class_obj.text_embedding(text.to(context.dtype))

    options[READY] = guidance.at(options, embed, x)
    return executor(x, *args, **kwargs)


@dataclass(frozen=True)
class GuidedCrossAttention:
    """Called in place of the `forward` of core's `WanT2VCrossAttention`."""

    layer: Any

    def __call__(
        self, x: Tensor, context: Tensor, transformer_options: Any = None, **kwargs: Any
    ) -> Tensor:
        """Returns the branch (B, L, C) for normed tokens x (B, L, C) and text (B, S, C)."""
        layer, options = self.layer, transformer_options or {}
        guided: NegativeText | None = options.get(READY)
        if guided is None:
            known = type(layer).forward
            return known(layer, x, context, transformer_options=options, **kwargs)
        attended = guided(_AsOurs(layer), context, partial(attend_as_core, options))
        q = layer.norm_q(layer.q(x)).unflatten(-1, (layer.num_heads, -1))
        return layer.o(attended(q, slice(0, q.shape[1])).flatten(-2))


@dataclass(frozen=True)
class _AsOurs:
    """Core's cross-attention as a `TextLayer`."""

    layer: Any

    def keys_values(self, text: Tensor, /) -> tuple[Tensor, Tensor]:
        k, v = self.layer.norm_k(self.layer.k(text)), self.layer.v(text)
        heads = (self.layer.num_heads, -1)
        return k.unflatten(-1, heads), v.unflatten(-1, heads)

    @property
    def attention(self) -> Callable[[AttentionFn, Tensor, Tensor, Tensor], Tensor]:
        return _attend


def _attend(attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q, k, v)
