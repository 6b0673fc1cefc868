"""The little of SVG that the pictures here need."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    """A straight line."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>'


def path(points: Iterable[tuple[float, float]], colour: str, width: float, *, dashes: str = "") -> str:
    """A line through points; `dashes` as in SVG's stroke-dasharray."""
    through = " ".join(f"{x},{y}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{through}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def circle(x: float, y: float, radius: float, colour: str) -> str:
    """A filled circle."""
    return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>'


def text(x: float, y: float, content: str, *, size: int, anchor: str = "start") -> str:
    """A text; `anchor` is `start`, `middle` or `end`."""
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}">{escape(content)}</text>'


def document(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """The whole picture, on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" fill="#222222">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
