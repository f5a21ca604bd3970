"""The text encoder learns what captions say, before any transformer listens to it.

It answers questions about captions through one look over their tokens, as a transformer's
cross-attention looks at them: what is the shape of the red object, how does it move, what is behind
it. So words that mean the same get similar embeddings, and an object's words know each other.
Trained by the flow-matching loss alone, it had learned colours but hardly any motion after 14000
steps: what a caption says of the motion is a few percent of that loss.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Recipe
from .data import Batch, Clips, generator
from .scenes import (
    BACKGROUND_COLOURS,
    BACKGROUNDS,
    CAMERAS,
    KINDS,
    LIGHTS,
    MOTIONS,
    OBJECT_COLOURS,
    SHAPES,
    Scene,
    Stream,
    Thing,
)
from .scenes.phrases import pace, sense, size
from .text_encoder import build_text_encoder, encode_text
from .tokenizer import PAD_TOKEN, Tokenizer
from .trainer import Metrics

COLOURS = tuple(OBJECT_COLOURS)

OF_OBJECT: dict[str, tuple[object, ...]] = {
    "shape": tuple(SHAPES),
    "motion": MOTIONS,
    "size": ("", "small", "large"),
    "pace": ("", "slow", "fast"),
    "sense": (0, 1, -1),
    "then": ("", *MOTIONS),
    "leads": (False, True),
}
"""Answers to questions about one object; those left out of a caption can only be guessed."""

OF_SCENE: dict[str, tuple[object, ...]] = {
    "camera": CAMERAS,
    "light": LIGHTS,
    "kind": KINDS,
    "pattern": BACKGROUNDS,
    "first": tuple(BACKGROUND_COLOURS),
    "second": tuple(BACKGROUND_COLOURS),
}
"""Answers to questions about everything else; first and second are the background's colours."""

COLOURS_SHOWN = "colours"
"""The one question with several right answers: the colours of all objects."""

VAL_CAPTIONS = 512
TOKEN_STEP = 64
"""Captions are padded to a multiple of it, so that nearly all batches have the same shape."""


class Questions(nn.Module):
    """Answers questions about captions from the encoder's output."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_object = nn.Embedding(len(COLOURS), dim)
        self.of_scene = nn.Parameter(torch.randn(dim))
        self.keys = nn.Linear(dim, dim, bias=False)
        self.values = nn.Linear(dim, dim, bias=False)
        counts = {name: len(answers) for name, answers in (OF_OBJECT | OF_SCENE).items()}
        counts[COLOURS_SHOWN] = len(COLOURS)
        self.answers = nn.ModuleDict({name: nn.Linear(dim, n) for name, n in counts.items()})

    def forward(self, embedding: Tensor, padding: Tensor, colour: Tensor) -> dict[str, Tensor]:
        """Returns logits (B, answers) for each question.

        Args:
            embedding: of the tokens (B, S, dim).
            padding: bool (B, S), True where there is no token.
            colour: index of the colour of the object that is asked about (B,).
        """
        of_object = self.of_object(colour)
        asked = torch.stack((of_object, self.of_scene.expand_as(of_object)), dim=1)
        seen = F.scaled_dot_product_attention(
            asked, self.keys(embedding), self.values(embedding), attn_mask=~padding.unsqueeze(1)
        )
        object_seen, scene_seen = seen.unbind(1)
        return {
            name: answer(object_seen if name in OF_OBJECT else scene_seen)
            for name, answer in self.answers.items()
        }


@dataclass(frozen=True)
class Captions:
    """Scenes of one split, sampled once, with a new caption every time."""

    clips: Clips
    tokenizer: Tokenizer
    scenes: list[Scene]

    def batch(self, count: int, *key: int | str) -> Batch:
        """Returns token ids int16 (B, S) and the right answers; the same for the same key."""
        stream = Stream(self.clips.seed, "questions", self.clips.split, *key)
        places = [int(stream.uniform() * len(self.scenes)) for _ in range(count)]
        scenes = [self.scenes[place] for place in places]
        variant = int(stream.uniform() * 2**32)
        texts = [
            self.clips.caption(scene, place, variant)
            for scene, place in zip(scenes, places, strict=True)
        ]
        tokens = self.tokenizer.batch(texts)
        longest = int((tokens != PAD_TOKEN).sum(dim=1).max())
        things = [stream.pick(scene.things) for scene in scenes]
        shown = [[colour in {t.colour for t in s.things} for colour in COLOURS] for s in scenes]
        batch = {
            "tokens": tokens[:, : -(-longest // TOKEN_STEP) * TOKEN_STEP],
            "colour": torch.tensor([COLOURS.index(thing.colour) for thing in things]),
            COLOURS_SHOWN: torch.tensor(shown).float(),
            **_right(OF_OBJECT, list(map(_of_object, things, scenes))),
            **_right(OF_SCENE, [_of_scene(scene) for scene in scenes]),
        }
        return {name: tensor.to(self.clips.device) for name, tensor in batch.items()}


def _of_object(thing: Thing, scene: Scene) -> dict[str, object]:
    return {
        "shape": thing.shape,
        "motion": thing.motion,
        "size": size(thing),
        "pace": pace(thing),
        "sense": sense(thing),
        "then": thing.then,
        "leads": scene.kind == "follow" and thing is scene.things[0],
    }


def _of_scene(scene: Scene) -> dict[str, object]:
    back = scene.background
    return {
        "camera": scene.camera.motion,
        "light": scene.light.motion,
        "kind": scene.kind,
        "pattern": back.kind,
        "first": back.first,
        "second": back.second,
    }


def _right(questions: dict[str, tuple[object, ...]], truths: list[dict[str, object]]) -> Batch:
    return {
        name: torch.tensor([answers.index(truth[name]) for truth in truths])
        for name, answers in questions.items()
    }


class TextStage:
    """Trains the text encoder alone."""

    def __init__(
        self, name: str, recipe: Recipe, device: torch.device, tokenizer: Tokenizer
    ) -> None:
        """Builds an untrained encoder on the device, and samples scenes to caption."""
        self.name = name
        self.optimisation = recipe.text.optimisation
        torch.manual_seed(generator(torch.device("cpu"), recipe.seed, name).initial_seed())
        encoder = build_text_encoder(recipe.text, tokenizer.size)
        parts = {"text_encoder": encoder, "questions": Questions(recipe.text.dim)}
        self.model = nn.ModuleDict(parts).to(device)
        self.captions: dict[str, Captions] = {}
        for split, count in (("train", recipe.text.question_scenes), ("val", VAL_CAPTIONS)):
            clips = Clips(recipe.clips, recipe.seed, split, device)
            self.captions[split] = Captions(clips, tokenizer, clips.scenes(0, count))

    def batch(self, step: int) -> Batch:
        """Returns captions and answers."""
        return self.captions["train"].batch(self.optimisation.batch_size, step)

    def loss(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Returns the cross entropy of the answers, summed over the questions."""
        logits = self._answers(batch)
        losses = {name: F.cross_entropy(logits[name], batch[name]) for name in OF_OBJECT | OF_SCENE}
        losses[COLOURS_SHOWN] = F.binary_cross_entropy_with_logits(
            logits[COLOURS_SHOWN], batch[COLOURS_SHOWN]
        )
        shown = {name: losses[name].detach() for name in ("shape", "motion")}
        return torch.stack(list(losses.values())).sum(), shown

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Returns the loss, and which parts of the answers are right, on unseen scenes."""
        batch = self.captions["val"].batch(VAL_CAPTIONS, "val")
        logits = self._answers(batch)
        right = {
            f"{name}_right": float((logits[name].argmax(dim=1) == batch[name]).float().mean())
            for name in OF_OBJECT | OF_SCENE
        }
        return {"loss": float(self.loss(batch)[0]), **right}

    def _answers(self, batch: Batch) -> dict[str, Tensor]:
        tokens = batch["tokens"]
        embedding = encode_text(self.model["text_encoder"], tokens)
        return self.model["questions"](embedding, tokens == PAD_TOKEN, batch["colour"])
