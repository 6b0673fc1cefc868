"""Pages that are made from code when the docs are built: configuration, HTTP, command line. A hook of mkdocs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.generate.cli_page import cli_page  # noqa: E402  (found through the line above)
from docs.generate.configuration_page import configuration_page  # noqa: E402
from docs.generate.http_page import http_page  # noqa: E402

PAGES: dict[str, Callable[[], str]] = {
    "reference/configuration.md": configuration_page,
    "reference/http.md": http_page,
    "reference/cli.md": cli_page,
}
PICTURE = re.compile(r"\]\(\.\./(benchmarks/results/[^)]+\.(?:png|svg))\)")
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./(?!benchmarks/results/[^)]+\.(?:png|svg)\))([^)#]+)[^)]*\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages, and what lies outside of the docs that they show."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    for picture in sorted((ROOT / "benchmarks/results").glob("*.[ps][nv]g")):
        files.append(File.generated(config, f"benchmarks/results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Pages are read in the repository as well, where their links reach what is no page: there it is named only."""
    if page.file.src_uri in PAGES:
        return markdown
    return OUTSIDE.sub(r"\1 (`\2` in the repository)", PICTURE.sub(r"](\1)", markdown))
