"""The palette: colours that stay apart for everyone and can be read on both pages."""

from itertools import combinations

import numpy as np
import pytest

from app import theme

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def linear(colour: str) -> np.ndarray:
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def oklab(colour: str, vision: str) -> np.ndarray:
    seen = np.clip(np.asarray(VISION[vision]) @ linear(colour), 0, 1)
    return TO_LAB @ np.cbrt(TO_LMS @ seen)


@pytest.mark.parametrize("vision", VISION)
def test_documents_and_effects_stay_apart_for_every_kind_of_sight(vision):
    colours = [*theme.DOCUMENT_COLOURS, theme.RAISED, theme.LOWERED]
    nearest = min(np.linalg.norm(oklab(a, vision) - oklab(b, vision)) for a, b in combinations(colours, 2))
    assert nearest > 0.07  # about three and a half times what the eye can just tell apart


MARKS = [*theme.DOCUMENT_COLOURS, theme.RAISED, theme.LOWERED, theme.WITHOUT_MEMORY, theme.OWN_TEXT_COLOUR]


@pytest.mark.parametrize("colour", MARKS)
@pytest.mark.parametrize("surface", [theme.LIGHT["card"], theme.DARK["card"]])
def test_marks_can_be_seen_on_both_pages(colour, surface):
    assert contrast(colour, surface) >= 3.0


@pytest.mark.parametrize("surfaces", [theme.LIGHT, theme.DARK])
def test_text_can_be_read_on_every_surface(surfaces):
    for name in ("page", "card", "well"):
        assert contrast(surfaces["ink"], surfaces[name]) >= 7
        assert contrast(surfaces["ink-2"], surfaces[name]) >= 4.5
        assert contrast(surfaces["danger"], surfaces[name]) >= 4.5


def test_with_and_without_memory_never_share_a_colour():
    assert theme.WITH_MEMORY != theme.WITHOUT_MEMORY
    assert not {theme.WITH_MEMORY, theme.WITHOUT_MEMORY, theme.LOWERED} & set(theme.DOCUMENT_COLOURS)


def test_a_document_keeps_its_colour_and_colours_repeat_after_the_last():
    assert theme.document_colour(1) == theme.document_colour(1 + len(theme.DOCUMENT_COLOURS))
    assert theme.document_colour(0) != theme.document_colour(1)
    assert theme.document_colour(-1) == theme.OWN_TEXT_COLOUR


def test_tint_grows_with_the_effect_and_tells_its_sign():
    alphas = [float(theme.effect_tint(nats).rstrip(")").split(",")[-1]) for nats in (0.2, 1.0, 3.0, 9.0)]
    assert alphas == sorted(alphas)
    assert alphas[2] == alphas[3]
    assert theme.effect_tint(0.0) == "transparent"
    assert theme.effect_tint(1.0)[:15] != theme.effect_tint(-1.0)[:15]


def test_css_holds_every_surface_for_both_pages():
    css = theme.css_variables()
    light, dark = css.split("\n")
    for name in theme.LIGHT:
        assert f"--lm-{name}: {theme.LIGHT[name]};" in light
        assert f"--lm-{name}: {theme.DARK[name]};" in dark


def test_weight_scale_is_invisible_at_zero_and_full_at_one():
    scale = theme.weight_scale("#3C91FD")
    assert scale[0] == [0.0, "rgba(60,145,253,0.000)"]
    assert scale[-1] == [1.0, "rgba(60,145,253,1.000)"]
