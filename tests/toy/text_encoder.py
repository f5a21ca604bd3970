"""The toy umT5: shapes of its tensors and a sentencepiece tokenizer trained on a few sentences."""

import io
from dataclasses import dataclass

import sentencepiece

HEADS = 4
FFN_DIM = 128
LAYERS = 2
POSITION_BUCKETS = 32
VOCABULARY = 400

SENTENCES = (
    "a red ball rolls over a green field",
    "two foxes in winter coats dance on a wooden stage under warm lamps",
    "an old man in a straw hat sits on a pier and mends a net in the evening",
    "the camera pans slowly over the sea while the sun sets behind the mountains",
    "a small blue boat moves from left to right under a cloudy sky",
    "close up of a woman who smiles and turns her head in warm light",
    "rain falls on a quiet street at night and neon signs are reflected in the water",
    "low quality, blurred, static, worst quality, deformed hands, subtitles",
)


@dataclass(frozen=True)
class Tokenizer:
    """A trained sentencepiece model."""

    model: bytes
    """The serialized model, as umT5 files hold it in the tensor `spiece_model`."""
    pieces: tuple[str, ...]


def umt5_tokenizer() -> Tokenizer:
    """Returns a tokenizer with umT5's special ids: 0 padding, 1 end of text, 2 unknown.

    Like umT5's it falls back to bytes, so text in any script gives ids of its own.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = tuple(processor.IdToPiece(i) for i in range(processor.GetPieceSize()))
    return Tokenizer(model.getvalue(), pieces)


def umt5_shapes(vocabulary: int, dim: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of a toy umT5 encoder, by transformers' key.

    Attention is `dim` wide, as ComfyUI's T5 assumes, and every layer has its own position bias.
    """
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (vocabulary, dim)}
    for layer in range(LAYERS):
        block = f"encoder.block.{layer}.layer"
        for name in "qkvo":
            shapes[f"{block}.0.SelfAttention.{name}.weight"] = (dim, dim)
        shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = (
            POSITION_BUCKETS,
            HEADS,
        )
        shapes[f"{block}.0.layer_norm.weight"] = (dim,)
        shapes[f"{block}.1.DenseReluDense.wi_0.weight"] = (FFN_DIM, dim)
        shapes[f"{block}.1.DenseReluDense.wi_1.weight"] = (FFN_DIM, dim)
        shapes[f"{block}.1.DenseReluDense.wo.weight"] = (dim, FFN_DIM)
        shapes[f"{block}.1.layer_norm.weight"] = (dim,)
    return shapes | {"encoder.final_layer_norm.weight": (dim,)}
