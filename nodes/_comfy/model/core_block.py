"""Our block with the call signatures of core's Wan model, so that patches written for that fit.

Without patches it is computed as ever. With them, a branch is computed as core computes it: by one
call of its layer for all tokens, with core's attention function.

Shape legend: B batch, L tokens, S text tokens, C hidden width, H heads, D head width.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.ldm.modules.attention
import torch
from torch import Tensor

from ....wan_model.config import DiTConfig, Precision
from ....wan_model.dit import Block, BlockInputs
from ....wan_model.dit.attention_layers import CrossAttention, SelfAttention, attend_to_text
from ....wan_model.dit.block import BlockStages
from ....wan_model.dit.modulation import Modulation, modulate
from ....wan_model.dit.tokens import runs
from ....wan_model.quant import Linear
from .core_hooks import (
    AFTER_CROSS_ATTENTION,
    AFTER_SELF_ATTENTION,
    ATTENTION,
    is_patched,
    patches,
)
from .core_shapes import CoreInputs, from_core, from_freqs

TEXT_ATTENTION = "wanduet.text_attention"
"""Transformer option of a block that is called as core's: how it attends to text."""

Branch = Callable[[slice], Tensor]
"""Returns what a branch adds to a run of tokens (B, run, C), without its gate."""


class CoreSelfAttention(SelfAttention):
    """Called as core's `WanSelfAttention`."""

    def forward(
        self, x: Tensor, freqs: Tensor, transformer_options: dict[str, Any] | None = None
    ) -> Tensor:
        """Returns the branch (B, L, C) for normed tokens x (B, L, C) and `to_freqs`."""
        options, angles = transformer_options or {}, from_freqs(freqs)
        q, k, v = self.empty_qkv(x.shape[0], x.shape[1], x.device)
        for run in runs(x.shape[1]):
            self.project(x[:, run], angles.at(run), [part[:, run] for part in (q, k, v)])
        attended = attend_as_core(options, q, k, v).flatten(-2)
        del v
        for patch in patches(options, AFTER_SELF_ATTENTION):
            attended = patch({"x": attended, "q": q, "k": k, "transformer_options": options})
        return self.o(attended)


class CoreCrossAttention(CrossAttention):
    """Called as core's `WanT2VCrossAttention`."""

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        """Returns the branch (B, L, C) for normed tokens x (B, L, C) and text (B, S, C)."""
        k, v = self.keys_values(context)
        return self.output(attend_as_core(transformer_options or {}, self.queries(x), k, v))


class CoreBlock(Block):
    """Called as ours, or as core's `WanAttentionBlock`."""

    has_engine = False
    """Whether a weights engine brings its weights."""
    was_to_move = False
    """Whether another node tried to move it in the meantime."""

    def __init__(self, config: DiTConfig, precision: Precision, linear: type[Linear]) -> None:
        super().__init__(config, precision, linear)
        self.compute_dtype = precision.compute_dtype
        self.self_attn = CoreSelfAttention(config, precision, linear)
        self.cross_attn = CoreCrossAttention(config, precision, linear)

    def forward(
        self,
        x: Tensor,
        inputs: BlockInputs | None = None,
        stages: BlockStages | None = None,
        *,
        e: Tensor | None = None,
        freqs: Tensor | None = None,
        context: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        """Returns the residual stream (B, L, C) after this block.

        Args:
            x: (B, L, C).
            inputs: see `Block`; without them, the block is called as one of core's.
            stages: see `Block`.
            e: see `from_core`, as are the following two.
            freqs: rotations.
            context: embedded text.
            transformer_options: ComfyUI's.
        """
        if inputs is not None:
            return super().forward(x, inputs, stages)
        assert e is not None
        assert freqs is not None
        assert context is not None
        options = transformer_options or {}
        inputs = from_core(x, e, freqs, context, partial(attend_as_core, options))
        inputs = replace(inputs, text_attention=options.get(TEXT_ATTENTION, attend_to_text))
        return self.run_patched(options, lambda: freqs, x, inputs)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moves it, unless an engine does: nodes for block swap would take what it has planned."""
        if not self.has_engine:
            return super().to(*args, **kwargs)
        self.was_to_move = True
        return self

    def has_hooks(self, options: Mapping[str, Any]) -> bool:
        """Whether the block is to be computed as core does."""
        return (
            self._self_attention_is_patched(options)
            or ATTENTION in options
            or self.has_foreign_text_layer()
            or bool(patches(options, AFTER_CROSS_ATTENTION))
        )

    def run_patched(
        self, options: dict[str, Any], freqs: Callable[[], Tensor], x: Tensor, inputs: BlockInputs
    ) -> Tensor:
        """Returns the residual stream (B, L, C); x itself without gradients and patches.

        Args:
            options: ComfyUI's transformer options.
            freqs: returns `to_freqs` of the inputs' rotation.
            x: (B, L, C).
            inputs: what all blocks are given.
        """
        attention, feed_forward = inputs.time.modulations(self.modulation)
        if self._self_attention_is_patched(options):
            h = self._runs(x, lambda part, run: modulate(self.norm1(part), attention.at(run)))
            branch = _parts(self.self_attn(h, freqs(), transformer_options=options))
        else:
            branch = self._attended(x, attention, inputs)
        x = _with(branch, x, inputs, attention)
        if self.has_foreign_text_layer():
            h = self._runs(x, lambda part, _: self.norm3(part))
            text = self.cross_attn(
                h, inputs.text, context_img_len=None, transformer_options=options
            )
            x = _with(_parts(text), x, inputs)
        elif ATTENTION in options:
            x = _with(_parts(self._text_as_core(options, x, inputs)), x, inputs)
        else:
            x = _with(self._text(x, inputs), x, inputs)
        for patch in patches(options, AFTER_CROSS_ATTENTION):
            # What it was given and what it returns may be kept, and sums take the place of x.
            x = patch({"x": x, "transformer_options": options}).clone()

        def fed_forward(run: slice) -> Tensor:
            return self.ffn(modulate(self.norm2(x[:, run]), feed_forward.at(run)))

        return _with(fed_forward, x, inputs, feed_forward)

    def _self_attention_is_patched(self, options: Mapping[str, Any]) -> bool:
        hooked = ATTENTION in options or bool(patches(options, AFTER_SELF_ATTENTION))
        return hooked or _is_foreign(self.self_attn, CoreSelfAttention)

    def has_foreign_text_layer(self) -> bool:
        """Whether another node computes cross-attention."""
        return _is_foreign(self.cross_attn, CoreCrossAttention)

    def _runs(self, x: Tensor, compute: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Returns compute(x[:, run], run) of all runs in the dtype that layers compute in."""
        whole = torch.empty(x.shape, dtype=self.compute_dtype, device=x.device)
        for run in runs(x.shape[1]):
            whole[:, run] = compute(x[:, run], run)
        return whole

    def _attended(self, x: Tensor, attention: Modulation, inputs: BlockInputs) -> Branch:
        """Returns the branch of self-attention, computed as in a block without patches."""
        qkv = self.self_attn.empty_qkv(x.shape[0], x.shape[1], x.device)
        for run in runs(x.shape[1]):
            parts = [whole[:, run] for whole in qkv]
            self.project(x[:, run], attention.at(run), inputs.rotation.at(run), parts)
        attended = self.self_attn.attention(inputs.attend, *qkv)
        return lambda run: self.self_attn.output(attended[:, run])

    def _text(self, x: Tensor, inputs: BlockInputs) -> Branch:
        """Returns the branch of cross-attention, computed as in a block without patches."""
        layer = self.cross_attn
        attended = inputs.text_attention(layer, inputs.text, inputs.attend)

        def branch(run: slice) -> Tensor:
            return layer.output(attended(layer.queries(self.norm3(x[:, run])), run))

        return branch

    def _text_as_core(self, options: dict[str, Any], x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the branch of cross-attention (B, L, C), by one call of what replaces ours."""
        layer = self.cross_attn
        attended = inputs.text_attention(layer, inputs.text, partial(attend_as_core, options))
        q = layer.queries(self._runs(x, lambda part, _: self.norm3(part)))
        return layer.output(attended(q, slice(0, x.shape[1])))


def attend_as_core(options: dict[str, Any], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns core's attention (B, L, H, D), or what replaces it by the options."""
    attended = comfy.ldm.modules.attention.optimized_attention(
        *(part.flatten(-2) for part in (q, k, v)),
        heads=q.shape[-2],
        transformer_options=options,
    )
    return attended.unflatten(-1, q.shape[-2:])


def core_way(
    block: Callable[..., Tensor], options: dict[str, Any], core: CoreInputs
) -> Callable[[Tensor, BlockInputs], Tensor]:
    """Returns what is to be called for a block: itself, unless it has patches."""
    if not isinstance(block, CoreBlock):
        return block
    if is_patched(block):
        return partial(_call_as_core, block, options, core)
    if block.has_hooks(options):
        return partial(block.run_patched, options, lambda: core.freqs)
    return block


def _call_as_core(
    block: CoreBlock, options: dict[str, Any], core: CoreInputs, x: Tensor, inputs: BlockInputs
) -> Tensor:
    """Calls a block whose `forward` is another one."""
    arguments = {"e": core.e, "freqs": core.freqs, "context": inputs.text, "context_img_len": None}
    options = {**options, TEXT_ATTENTION: inputs.text_attention}
    return block(x, **arguments, transformer_options=options)


def _is_foreign(layer: torch.nn.Module, ours: type[torch.nn.Module]) -> bool:
    return is_patched(layer) or not isinstance(layer, ours)


def _parts(branch: Tensor) -> Branch:
    return lambda run: branch[:, run]


def _with(
    branch: Branch, x: Tensor, inputs: BlockInputs, modulation: Modulation | None = None
) -> Tensor:
    """Returns x with a branch, through the gate of its modulation if it has one."""

    def add(part: Tensor, run: slice) -> Tensor:
        added = branch(run) if modulation is None else modulation.at(run).gate * branch(run)
        return inputs.residual.add(part, added)

    return inputs.residual.update(x, add)
