"""Names of a umT5 encoder's tensors: from those of Wan's official code to those of transformers.

Source: `wan/modules/t5.py` of the official repository; its gate is the first of two branches.
"""

import re

BLOCK_PARTS = {
    "norm1": "0.layer_norm",
    "attn.q": "0.SelfAttention.q",
    "attn.k": "0.SelfAttention.k",
    "attn.v": "0.SelfAttention.v",
    "attn.o": "0.SelfAttention.o",
    "pos_embedding.embedding": "0.SelfAttention.relative_attention_bias",
    "norm2": "1.layer_norm",
    "ffn.gate.0": "1.DenseReluDense.wi_0",
    "ffn.fc1": "1.DenseReluDense.wi_1",
    "ffn.fc2": "1.DenseReluDense.wo",
}
OUTSIDE = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}


def transformers_name(name: str) -> str:
    """Returns a tensor's name in transformers; a name that is none of these stays as it is."""
    layer, dot, leaf = name.rpartition(".")
    if layer in OUTSIDE:
        return OUTSIDE[layer] + dot + leaf
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", layer)
    if block is None or block[2] not in BLOCK_PARTS:
        return name
    return f"encoder.block.{block[1]}.layer.{BLOCK_PARTS[block[2]]}.{leaf}"
