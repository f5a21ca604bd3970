"""Colours of objects and backgrounds, and the space in which they are compared."""

import torch
from torch import Tensor

Rgb = tuple[float, float, float]

OBJECT_COLOURS: dict[str, Rgb] = {
    "red": (0.88, 0.10, 0.12),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.98, 0.90, 0.12),
    "green": (0.12, 0.64, 0.20),
    "cyan": (0.10, 0.82, 0.86),
    "blue": (0.10, 0.24, 0.88),
    "purple": (0.50, 0.12, 0.68),
    "pink": (0.98, 0.52, 0.76),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.04),
}
"""sRGB in [0, 1], far apart from each other for a person as well as for the detector."""

BACKGROUND_COLOURS: dict[str, Rgb] = {
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.04),
    "grey": (0.50, 0.50, 0.50),
    "light grey": (0.76, 0.76, 0.76),
    "dark grey": (0.26, 0.26, 0.27),
    "beige": (0.87, 0.79, 0.63),
    "brown": (0.40, 0.27, 0.17),
    "navy": (0.09, 0.12, 0.28),
    "olive": (0.42, 0.43, 0.22),
    "lavender": (0.72, 0.69, 0.88),
    "mint": (0.70, 0.87, 0.75),
}
"""Muted, so that the objects stand out."""

_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def oklab(rgb: Tensor) -> Tensor:
    """Converts colours to Oklab, where distances are about as large as people see them.

    Source: Björn Ottosson, "A perceptual color space for image processing" (2020).

    Args:
        rgb: sRGB in [0, 1], [..., 3].

    Returns:
        Lightness in [0, 1] and the two opponent colours, [..., 3].
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = (linear @ rgb.new_tensor(_LMS).T).clamp(min=0)
    return cones ** (1 / 3) @ rgb.new_tensor(_LAB).T


def contrast(colour: Rgb, *backgrounds: Rgb) -> float:
    """Returns the Oklab distance of a colour to the nearest mixture of one or two backgrounds."""
    first, last = torch.tensor(backgrounds[0]), torch.tensor(backgrounds[-1])
    mixtures = torch.lerp(first, last, torch.linspace(0, 1, 9)[:, None])
    return float((oklab(mixtures) - oklab(torch.tensor(colour))).norm(dim=-1).min())
