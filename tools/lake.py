"""A painted mountain lake at any time of the day: the templates' start and end image."""

import math

from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[float, float, float]

SKY = ((255, 196, 128), (150, 190, 232), (84, 66, 128))
HORIZON = ((255, 236, 196), (222, 236, 246), (244, 142, 122))
RIDGES = (
    ((150, 138, 160), (128, 152, 180), (96, 72, 118)),
    ((104, 100, 124), (84, 116, 140), (64, 46, 88)),
    ((62, 66, 82), (48, 84, 84), (36, 26, 58)),
)
"""From far to near; each in the morning, at noon and at dusk, as all colours."""

SHORE = 0.56
"""Height of the water's edge, as a part of the image's."""


def paint_lake(time: float, width: int = 832, height: int = 480) -> Image.Image:
    """Returns the lake.

    Args:
        time: 0 is morning, 1 dusk.
        width: pixels.
        height: pixels.
    """
    shore = round(height * SHORE)
    air = _gradient(width, shore, _at(SKY, time), _at(HORIZON, time))
    _sun(air, time)
    for depth, colours in enumerate(RIDGES):
        _ridge(air, depth, _at(colours, time))
    image = Image.new("RGB", (width, height))
    image.paste(air, (0, 0))
    image.paste(_water(air, time, height - shore), (0, shore))
    _boat(image, time)
    return image


def _at(colours: tuple[Colour, Colour, Colour], time: float) -> Colour:
    position = min(max(time, 0.0), 1.0) * 2
    left = min(int(position), 1)
    part = position - left
    pairs = zip(colours[left], colours[left + 1], strict=True)
    return tuple(a + (b - a) * part for a, b in pairs)  # pyright: ignore[reportReturnType]


def _rounded(colour: Colour) -> tuple[int, int, int]:
    return tuple(map(round, colour))  # pyright: ignore[reportReturnType]


def _gradient(width: int, height: int, top: Colour, bottom: Colour) -> Image.Image:
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for y in range(height):
        part = y / max(1, height - 1)
        row = tuple(a + (b - a) * part for a, b in zip(top, bottom, strict=True))
        draw.line((0, y, width, y), fill=_rounded(row))  # pyright: ignore[reportArgumentType]
    return image


def _sun(air: Image.Image, time: float) -> None:
    width, height = air.size
    x, y = width * (0.15 + 0.7 * time), height * (0.62 - 0.5 * math.sin(math.pi * time))
    for size, light in ((0.28, 40), (0.16, 70), (0.07, 255)):
        radius = height * size
        glow = Image.new("L", air.size, 0)
        ImageDraw.Draw(glow).ellipse((x - radius, y - radius, x + radius, y + radius), fill=light)
        if light < 255:
            glow = glow.filter(ImageFilter.GaussianBlur(radius / 3))
        air.paste((255, 244, 214), (0, 0), glow)


def _ridge(air: Image.Image, depth: int, colour: Colour) -> None:
    width, height = air.size
    base, tall = height * (0.62 + 0.15 * depth), height * (0.34 - 0.07 * depth)
    points = [(0, height)]
    for x in range(0, width + 8, 8):
        place = x / width * (5 + 3 * depth) + depth * 1.7
        wave = 0.5 * math.sin(place) + 0.3 * math.sin(2.3 * place + 1) + 0.2 * math.sin(6.1 * place)
        points.append((x, round(base - tall * wave)))
    ImageDraw.Draw(air).polygon([*points, (width, height)], fill=_rounded(colour))


def _water(air: Image.Image, time: float, height: int) -> Image.Image:
    """The air's reflection: darker, and in rows that waves shift sideways."""
    width = air.width
    mirror = air.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((width, round(height * 1.3)))
    water = Image.new("RGB", (width, height))
    for y in range(height):
        near = y / height
        shift = round((2 + 12 * near) * math.sin(y * (0.9 - 0.5 * near) + time * 40))
        row = mirror.crop((0, y, width, y + 1))
        water.paste(row, (shift, y))
        water.paste(row.crop((0, 0, abs(shift) + 1, 1)), (0 if shift > 0 else width + shift - 1, y))
    return Image.blend(water, Image.new("RGB", water.size, (18, 38, 64)), 0.28)


def _boat(image: Image.Image, time: float) -> None:
    width, height = image.size
    x, y = width * (0.3 + 0.36 * time), height * (0.76 + 0.008 * math.sin(time * 25))
    size = width * 0.05
    draw = ImageDraw.Draw(image)
    hull = [(x - size, y), (x + size, y), (x + 0.7 * size, y + 0.4 * size)]
    draw.polygon([*hull, (x - 0.7 * size, y + 0.4 * size)], fill=(70, 34, 30))
    draw.line((x - size, y, x + size, y), fill=(196, 120, 84), width=max(1, round(size / 12)))
    draw.ellipse(
        (x - 0.1 * size, y - 0.62 * size, x + 0.14 * size, y - 0.38 * size), fill=(40, 30, 40)
    )
    draw.polygon(
        [
            (x - 0.22 * size, y),
            (x + 0.26 * size, y),
            (x + 0.1 * size, y - 0.4 * size),
            (x - 0.08 * size, y - 0.4 * size),
        ],
        fill=(150, 50, 46),
    )
