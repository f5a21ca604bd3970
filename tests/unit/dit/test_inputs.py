"""Tensors that do not fit are refused with what is wrong, what is needed and what to do."""

import pytest
import torch

from tests.unit.dit.toy import FRAMES, TOKENS, make_dit, make_inputs
from wan_model.errors import ShapeError

EVEN = (
    "need even numbers. Use a video size that is a multiple of 16 pixels (14B) or 32 pixels (5B)."
)
VAE = (
    "Use the VAE that belongs to the model: 16 channels are Wan 2.1's (14B models), 48 are "
    "Wan 2.2's (TI2V-5B)."
)
TIMES = f"need (2,), (2, {FRAMES}) per latent frame or (2, {TOKENS}) per token."
COND = "need (2, 20, 3, 6, 8): 4 mask channels (1 = known frame), then the image's latent."

BAD_INPUTS = {
    "latent of the other VAE": (
        "t2v",
        {"latent": (2, 48, 3, 6, 8)},
        ["The latent does not fit", "Got (2, 48, 3, 6, 8)", "need (B, 16, T, H, W)", VAE],
    ),
    "latent of the other VAE, 5B": (
        "ti2v",
        {"latent": (2, 16, 3, 6, 8)},
        ["The latent does not fit", "Got (2, 16, 3, 6, 8)", "need (B, 48, T, H, W)", VAE],
    ),
    "latent without a batch": (
        "t2v",
        {"latent": (16, 3, 6, 8)},
        ["The latent does not fit", "Got (16, 3, 6, 8)", "need (B, 16, T, H, W)"],
    ),
    "odd height": ("t2v", {"latent": (2, 16, 3, 5, 8)}, ["Got H x W = 5 x 8", EVEN]),
    "odd width": ("ti2v", {"latent": (2, 48, 3, 6, 7)}, ["Got H x W = 6 x 7", EVEN]),
    "a timestep too many": (
        "t2v",
        {"timestep": (3,)},
        ["The timestep does not fit", "(3,)", TIMES],
    ),
    "timestep per sample as a column": ("t2v", {"timestep": (2, 1)}, ["Got (2, 1)", TIMES]),
    "timesteps of another video": ("ti2v", {"timestep": (2, 40)}, ["Got (2, 40)", TIMES]),
    "timesteps of another batch": (
        "ti2v",
        {"timestep": (1, TOKENS)},
        [f"Got (1, {TOKENS})", TIMES],
    ),
    "three axes of timesteps": ("ti2v", {"timestep": (2, 3, 12)}, ["Got (2, 3, 12)", TIMES]),
    "text of another encoder": (
        "t2v",
        {"text": (2, 7, 24)},
        ["The text embedding does not fit", "Got (2, 7, 24)", "B = 2, L <= 16, C = 20"],
    ),
    "text too long": (
        "t2v",
        {"text": (2, 17, 20)},
        ["Got (2, 17, 20)", "cut the text to its limit"],
    ),
    "text of another batch": ("t2v", {"text": (1, 7, 20)}, ["Got (1, 7, 20)", "B = 2"]),
    "text without a batch": ("t2v", {"text": (7, 20)}, ["Got (7, 20)", "need (B, L, C)"]),
    "no image": ("i2v", {"cond": None}, ["needs condition channels", "Got cond none", COND]),
    "image without mask": (
        "i2v",
        {"cond": (2, 16, 3, 6, 8)},
        ["Got cond (2, 16, 3, 6, 8)", COND],
    ),
    "image of another size": ("i2v", {"cond": (2, 20, 3, 6, 10)}, ["(2, 20, 3, 6, 10)", COND]),
    "image of another batch": ("i2v", {"cond": (1, 20, 3, 6, 8)}, ["(1, 20, 3, 6, 8)", COND]),
    "image for T2V": (
        "t2v",
        {"cond": (2, 20, 3, 6, 8)},
        ["takes no condition channels", "Got cond (2, 20, 3, 6, 8), need none", "Load the I2V"],
    ),
    "image for the 5B model": (
        "ti2v",
        {"cond": (2, 20, 3, 6, 8)},
        ["takes no condition channels", "Got cond (2, 20, 3, 6, 8), need none", "Load the I2V"],
    ),
}


@pytest.mark.parametrize(("kind", "changes", "parts"), BAD_INPUTS.values(), ids=list(BAD_INPUTS))
def test_wrong_shapes_are_refused(kind, changes, parts):
    model = make_dit(kind)
    tensors = {
        name: None if shape is None else torch.zeros(shape) for name, shape in changes.items()
    }
    with pytest.raises(ShapeError) as error:
        model(*make_inputs(model, 2)._replace(**tensors))
    for part in parts:
        assert part in str(error.value)


def test_the_longest_text_is_accepted():
    model = make_dit()
    inputs = make_inputs(model)._replace(text=torch.zeros(1, 16, 20))
    with torch.no_grad():
        assert model(*inputs).shape == inputs.latent.shape


def test_a_shape_error_is_a_value_error():
    # So that programs which know nothing of this library can catch it.
    assert issubclass(ShapeError, ValueError)
