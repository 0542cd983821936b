"""Write the reference pages from the commands and from the docstrings: `python docs/write_reference.py`.

`make docs` runs it. A test fails if the pages differ from what it writes, or if a public name is in no group.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import featcache
from featcache_cli.main import GROUPS, first_sentence, main

FOLDER = Path(__file__).parent / "reference"
WIDTH = 110
NAMES = {
    "Extract and read features": (
        "extract",
        "estimate",
        "update",
        "repair",
        "FeatureCache",
        "Features",
        "ExtractSpec",
        "ViewSpec",
        "verify",
        "diff",
        "push",
        "pull",
        "export_features",
        "plan",
        "Prices",
        "Rates",
        "Cluster",
    ),
    "Data": ("Manifest", "read_manifest", "allow_scheme"),
    "Networks": ("load_backbone", "Backbone", "load_text_encoder", "TextEncoder"),
    "Train": ("fit_head", "LinearHead", "finetune", "TrainConfig", "try_out"),
    "Check and compare": ("doctor", "similar", "suggest", "compare_heads", "curve", "benchmark", "reach_verdict"),
    "Use a model": ("Classifier", "FeatureClassifier", "Prediction", "evaluate", "export", "serve", "serve_labels"),
    "Figures": (
        "plot_confusion",
        "plot_curve",
        "plot_history",
        "plot_map",
        "plot_predictions",
        "plot_reliability",
        "plot_similar",
        "plot_views",
    ),
    "Errors": ("FeatcacheError",),
}


def commands(group: Any = main, parents: tuple[str, ...] = ("featcache",)) -> Iterator[tuple[str, click.Command]]:
    """Yield each command with its full name, such as `featcache show map`."""
    context = click.Context(group, info_name=" ".join(parents), **main.context_settings)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield " ".join((*parents, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*parents, name))


def help_of(name: str, command: click.Command) -> str:
    """Return the help text of a command, as `--help` prints it at a fixed width."""
    parent = click.Context(main, info_name=" ".join(name.split()[:-1]), **main.context_settings)
    context = click.Context(command, info_name=name.split()[-1], parent=parent, max_content_width=WIDTH)
    context.terminal_width = WIDTH
    return command.get_help(context)


def commands_page() -> str:
    """Return the page of all commands."""
    of_name = dict(commands())
    lines = [
        "# Commands",
        "",
        "This page is `--help` of each command. `docs/write_reference.py` writes it.",
        "",
        "| command | what it does |",
        "| --- | --- |",
    ]
    for name, command in of_name.items():
        anchor = re.sub(r"[^a-z0-9-]", "-", name)
        lines.append(f"| [`{name}`](#{anchor}) | {first_sentence(command.help or '')} |")
    for title, verbs in GROUPS.items():
        lines += ["", f"## {title}"]
        for name, command in of_name.items():
            if name.split()[1] in verbs:
                lines += ["", f"### {name}", "", "```text", help_of(name, command), "```"]
    return "\n".join(lines) + "\n"


def python_page() -> str:
    """Return the page of the public functions and classes."""
    lines = [
        "# Python",
        "",
        "Every name can be imported from `featcache`. The built pages show the parameters, the results and an example",
        "of each; so does `help(featcache.extract)`. `docs/write_reference.py` writes this page.",
    ]
    for title, names in NAMES.items():
        lines += ["", f"## {title}", "", "| name | what it is |", "| --- | --- |"]
        summaries = {name: (inspect.getdoc(getattr(featcache, name)) or "").splitlines()[0] for name in names}
        lines += [f"| `{name}` | {summary} |" for name, summary in summaries.items()]
        lines += ["", "```{eval-rst}"]
        for name in names:
            value = getattr(featcache, name)
            kind = "exception" if name.endswith("Error") else "class" if inspect.isclass(value) else "function"
            lines.append(f".. auto{kind}:: featcache.{name}")
            if kind == "class":
                lines += ["   :members:", "   :exclude-members: set_fit_request, set_score_request"]  # scikit-learn's
        lines.append("```")
    return "\n".join(lines) + "\n"


PAGES = {"commands.md": commands_page, "python.md": python_page}

if __name__ == "__main__":
    os.environ["COLUMNS"] = str(WIDTH)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
