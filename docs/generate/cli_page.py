"""The page of all commands, from what they say of themselves."""

from __future__ import annotations

from typing import Any

import typer

from deployments.cli import app

INTRODUCTION = """# Command line

What `tidegate COMMAND --help` says.
"""


def cli_page() -> str:
    """Markdown, one section a command."""
    group: Any = typer.main.get_command(app)
    lines = [INTRODUCTION]
    parent = group.make_context("tidegate", [], resilient_parsing=True)
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        lines += _command(command, command.make_context(name, [], parent=parent, resilient_parsing=True))
    return "\n".join(lines)


def _command(command: Any, context: Any) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## tidegate {context.info_name}", "", f"`{context.command_path} {usage}`", ""]
    lines += [(command.help or "").replace("\f", "").replace("\b", "").strip(), ""]
    told = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [f"| `{names}` | {' '.join(text.split())} |".replace("[", "\\[") for names, text in filter(None, told)]
    return [*lines, "| | |", "|---|---|", *rows, ""] if rows else lines
