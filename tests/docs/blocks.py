"""The code blocks of the README and of the docs' pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One block: where it is, and what it says."""

    page: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def blocks(language: str) -> list[Block]:
    """All blocks in a language, in the order of the pages."""
    return [
        Block(page.name, number, match[2])
        for page in PAGES
        for number, match in enumerate(_BLOCK.finditer(page.read_text(encoding="utf-8")))
        if match[1] == language
    ]


def command_lines(block: Block) -> list[str]:
    """The commands of a shell block, without comments; a command over several lines is one."""
    commands: list[str] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if commands and commands[-1].count("'") % 2:
            commands[-1] += line
        elif line.strip() and not line.lstrip().startswith("#"):
            commands.append(line.removeprefix("$ ").strip())
    return commands
