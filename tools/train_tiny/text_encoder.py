"""The tiny umT5 encoder, and prompts as the transformers see them.

Shape legend: B batch, S text tokens.
"""

import torch
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from wan_model.config import NEGATIVE_PROMPT

from .config import GuidanceRecipe, TextRecipe
from .tokenizer import PAD_TOKEN, Tokenizer


def build_text_encoder(recipe: TextRecipe, vocabulary: int) -> UMT5EncoderModel:
    """Returns an untrained encoder; transformers' key names are those that ComfyUI reads.

    Attention is as wide as the hidden state, which ComfyUI's umT5 takes for granted.
    """
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=recipe.dim,
        d_kv=recipe.dim // recipe.heads,
        d_ff=recipe.ffn_dim,
        num_layers=recipe.layers,
        num_heads=recipe.heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return UMT5EncoderModel(config)


def encode_text(encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Returns the embedding fp32 (B, S, dim) of token ids (B, S), zero beyond the prompts."""
    tokens = tokens.long()
    mask = tokens != PAD_TOKEN
    hidden = encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
    return hidden.float() * mask.unsqueeze(-1)


class CaptionDropout:
    """Replaces some captions by the prompts that guidance points away from."""

    def __init__(self, recipe: GuidanceRecipe, tokenizer: Tokenizer, device: torch.device) -> None:
        """Tokenises the two prompts once."""
        self.recipe = recipe
        self.prompts = tokenizer.batch(["", NEGATIVE_PROMPT]).to(device)

    def __call__(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Returns token ids (B, S) in which some rows are replaced."""
        chance, kind = torch.rand(2, len(tokens), generator=generator, device=tokens.device)
        negative = (kind < self.recipe.negative_share).long()
        dropped = chance < self.recipe.dropout
        return torch.where(dropped.unsqueeze(1), self.prompts[negative], tokens)
