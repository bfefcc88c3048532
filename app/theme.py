"""Colours, type and Plotly layout of the studio; every colour means one thing.

Hue says which document, strength says how much weight. With and without memory, and what memory raised or lowered,
have colours of their own. All of them keep a contrast of 3:1 on the light and on the dark page, and stay apart for
the three kinds of colour blindness (checked in `tests/test_theme.py`).
"""

from plotly import graph_objects as go

DOCUMENT_COLOURS = ("#3C91FD", "#AB3A95", "#217A53", "#C82708", "#908DB5", "#42926B")
OWN_TEXT_COLOUR = "#8C7B6B"  # what the run itself wrote and then retrieved: no document
RAISED = "#C48600"  # memory made the token more probable
LOWERED = "#7A5BC7"  # memory made the token less probable
WITH_MEMORY = RAISED
WITHOUT_MEMORY = "#808691"
FULL_TINT_NATS = 3.0  # an effect of this size has the strongest tint: e^3, twenty times as probable

LIGHT = {
    "page": "#FBFAF6",
    "card": "#FFFFFF",
    "well": "#F4F1E9",
    "rule": "#DFDACD",
    "ink": "#1D2026",
    "ink-2": "#5A606B",
    "focus": "#1D6FE0",
    "danger": "#B3261E",
}
DARK = {
    "page": "#121419",
    "card": "#1A1D24",
    "well": "#21252D",
    "rule": "#343944",
    "ink": "#ECE8DF",
    "ink-2": "#A9AEB8",
    "focus": "#7CB3FF",
    "danger": "#FF8A80",
}
UI_FONT = "IBM Plex Sans"
TEXT_FONT = "Charter, 'Bitstream Charter', 'Iowan Old Style', 'Source Serif 4', Palatino, Georgia, serif"
MONO_FONT = "IBM Plex Mono"


def document_colour(document: int) -> str:
    """Colour of a document by its id in the bank: the same on the page and in every chart; repeats after six.

    A negative id is no document but the run's own text.
    """
    if document < 0:
        return OWN_TEXT_COLOUR
    return DOCUMENT_COLOURS[document % len(DOCUMENT_COLOURS)]


def rgba(colour: str, alpha: float) -> str:
    """`#RRGGBB` with an opacity in 0..1 as a CSS colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:.3f})"


def effect_tint(effect: float) -> str:
    """CSS background of a token whose log-probability memory changed by `effect` nats; linear up to FULL_TINT_NATS."""
    strength = min(abs(effect) / FULL_TINT_NATS, 1.0)
    if strength < 0.02:
        return "transparent"
    return rgba(RAISED if effect > 0 else LOWERED, 0.08 + 0.52 * strength)


def weight_scale(colour: str) -> list[list]:
    """Plotly colour scale from nothing to `colour`; opacity grows as the square root, so that small weights show.

    Being transparent at zero, it is the same on a light and on a dark page. The numbers on the bar stay linear.
    """
    return [
        [stop, rgba(colour, stop**0.5)] for stop in (0.0, 0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49, 0.64, 0.81, 1.0)
    ]


def figure_layout(height: int, **axes: dict) -> go.Layout:
    """Layout shared by all charts: transparent, quiet grid, zoom kept on redraw; height in pixels."""
    quiet = {"gridcolor": "rgba(128,128,128,0.18)", "zeroline": False, "linecolor": "rgba(128,128,128,0.35)"}
    return go.Layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 54, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": f"{UI_FONT}, sans-serif", "size": 12, "color": "#808691"},
        title={
            "font": {"size": 13},
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 8},
            "subtitle": {"font": {"size": 11, "color": "#808691"}},
        },
        xaxis={**quiet, "automargin": True, **axes.get("xaxis", {})},
        yaxis={**quiet, "automargin": True, **axes.get("yaxis", {})},
        hoverlabel={"bgcolor": "#1D2026", "bordercolor": "#1D2026", "font": {"color": "#FFFFFF", "size": 12}},
        showlegend=False,
        modebar={
            "bgcolor": "rgba(0,0,0,0)",
            "color": "#808691",
            "activecolor": "#3C91FD",
            "remove": ["zoomin2d", "zoomout2d", "autoscale2d", "lasso2d", "select2d", "pan2d"],
        },
        uirevision="keep",
        dragmode="zoom",
    )


def css_variables() -> str:
    """The palette as CSS custom properties, `--lm-...`, for the light page and for `.dark`."""
    fixed = {"raised": RAISED, "lowered": LOWERED, "with": WITH_MEMORY, "without": WITHOUT_MEMORY}
    fixed |= {f"doc-{i}": colour for i, colour in enumerate(DOCUMENT_COLOURS)}
    fixed |= {"text-font": TEXT_FONT, "mono-font": f"'{MONO_FONT}', monospace"}

    def block(selector: str, values: dict[str, str]) -> str:
        return f"{selector} {{ " + " ".join(f"--lm-{name}: {value};" for name, value in values.items()) + " }"

    return "\n".join([block(":root", fixed | LIGHT), block(".dark", DARK)])


def gradio_variables() -> dict[str, str]:
    """Values for `gradio.themes.Base().set(...)`: the same surfaces under Gradio's own names."""
    pairs = {
        "body_background_fill": "page",
        "body_text_color": "ink",
        "body_text_color_subdued": "ink-2",
        "background_fill_primary": "card",
        "background_fill_secondary": "page",
        "block_background_fill": "card",
        "block_border_color": "rule",
        "block_label_background_fill": "card",
        "block_label_text_color": "ink-2",
        "block_title_text_color": "ink-2",
        "block_info_text_color": "ink-2",
        "border_color_primary": "rule",
        "border_color_accent": "ink-2",
        "panel_background_fill": "page",
        "input_background_fill": "card",
        "input_border_color": "rule",
        "input_border_color_focus": "focus",
        "input_placeholder_color": "ink-2",
        "button_primary_background_fill": "ink",
        "button_primary_background_fill_hover": "ink-2",
        "button_primary_border_color": "ink",
        "button_primary_text_color": "page",
        "button_primary_text_color_hover": "page",
        "button_secondary_background_fill": "card",
        "button_secondary_background_fill_hover": "well",
        "button_secondary_border_color": "rule",
        "button_secondary_text_color": "ink",
        "slider_color": "ink-2",
        "color_accent_soft": "well",
        "loader_color": "ink-2",
    }
    values = {name: LIGHT[key] for name, key in pairs.items()}
    values |= {f"{name}_dark": DARK[key] for name, key in pairs.items()}
    return values | {
        "block_radius": "10px",
        "block_shadow": "none",
        "block_shadow_dark": "none",
        "button_border_width": "1px",
        "button_large_radius": "8px",
        "button_small_radius": "6px",
        "input_radius": "8px",
        "block_label_text_size": "13px",
        "block_title_text_size": "13px",
        "block_title_text_weight": "500",
        "button_large_text_weight": "600",
        "layout_gap": "14px",
    }
