"""Prompts to embeddings with a small umT5 file: its tokenizer and its weights.

Shape legend: B prompts, S tokens of the longest.
"""

from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from wan_model.loading import TextEncoderConfig, open_checkpoint
from wan_model.prompt import END_TOKEN, clean_prompt, cut_tokens

PAD_TOKEN = 0
TOKEN_TABLE = "encoder.embed_tokens.weight"
"""Another name of `shared.weight`, under which transformers expects it too."""


class PromptEncoder:
    """The umT5 encoder, in fp32, with transformers and sentencepiece."""

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        """Loads a file that has the tokenizer in the tensor `spiece_model`.

        Raises:
            CheckpointError: if it is not a umT5 encoder.
        """
        sizes = open_checkpoint(path).require(TextEncoderConfig)
        tensors = load_file(path)
        model = bytes(tensors.pop("spiece_model").tolist())
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
        block = "encoder.block.0.layer"
        config = UMT5Config(
            vocab_size=sizes.vocab_size,
            d_model=sizes.dim,
            d_kv=len(tensors[f"{block}.0.SelfAttention.q.weight"]) // sizes.num_heads,
            d_ff=len(tensors[f"{block}.1.DenseReluDense.wi_0.weight"]),
            num_layers=sizes.num_layers,
            num_heads=sizes.num_heads,
            feed_forward_proj="gated-gelu",
        )
        self.encoder = UMT5EncoderModel(config).eval()
        self.encoder.load_state_dict({**tensors, TOKEN_TABLE: tensors["shared.weight"]})
        self.device = torch.device(device)
        self.encoder.to(self.device)

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Tensor:
        """Returns embeddings fp32 (B, S, dim), zero beyond each prompt."""
        ids = [
            cut_tokens([*self.tokenizer.EncodeAsIds(clean_prompt(prompt)), END_TOKEN])
            for prompt in prompts
        ]
        longest = max(map(len, ids))
        rows = [row + [PAD_TOKEN] * (longest - len(row)) for row in ids]
        tokens = torch.tensor(rows, device=self.device)
        mask = tokens != PAD_TOKEN
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        return hidden * mask.unsqueeze(-1)
