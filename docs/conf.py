"""The site: `python -m sphinx -c docs -W --keep-going . build/site`.

The source folder is the whole repository, so that pages, README and notebooks link to
each other here as they do there.
"""

import inspect
import re

import uronet_jax
from uronet_jax.command import COMMANDS, describe
from uronet_jax.corruptions import CORRUPTIONS, Operation
from uronet_jax.corruptions.operation import SOURCES
from uronet_jax.pretrained import list_pretrained

project = "uronet_jax"
author = "The uronet_jax developers"
release = uronet_jax.__version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "notebooks/*.ipynb"]
include_patterns += [f"uronet_jax/pretrained_weights/{x}.md" for x in list_pretrained()]
exclude_patterns = [".*", "build", "dist", "runs"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]

myst_enable_extensions = ["colon_fence", "html_image"]
myst_heading_anchors = 3
# Lines that begin with % are text.
myst_disable_syntax = ["myst_line_comment", "myst_target", "myst_block_break"]
myst_ref_domains = ["std"]  # Else a folder could be taken for an attribute.
nb_execution_mode = "off"  # They train for minutes; tests run them.

# Docstrings write `name` as Markdown does; where it is a name it becomes a link.
default_role = "py:obj"
napoleon_custom_sections = ["Source", ("Attributes", "params_style")]
autodoc_preserve_defaults = True
autoclass_content = "both"
autodoc_default_options = {"special-members": "__call__"}
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_show_copyright = False
html_title = f"uronet_jax {release}"
# The front page is below docs/.
html_extra_path = ["site"]


def _toctree(lines):
    return "\n".join(["", "```{toctree}", ":hidden:", "", *lines, "```", ""])


def _fill(app, docname, source):
    """Adds what follows from tables and folders to the pages that need it."""
    if docname == "docs/index":
        cards = [f"../uronet_jax/pretrained_weights/{x}" for x in list_pretrained()]
        source[0] = source[0].replace("PRETRAINED_CARDS", "\n".join(cards))
    if docname == "docs/RESULTS":
        links = re.findall(r"\[([^]]*)\]\((results/(\w+))\.md\)", source[0])
        # Titles do not tell evaluations apart; there the link is the file's name.
        lines = [
            f"{text} <{path}>" if text == name else path for text, path, name in links
        ]
        source[0] += _toctree(lines)
    if docname == "docs/api/commands":
        for name in COMMANDS:
            source[0] += f"\n## {name}\n\n```text\n{describe(name)}\n```\n"
    if docname == "docs/api/corruptions":
        for name, operation in CORRUPTIONS.items():
            place = f"{inspect.getmodule(operation.apply).__name__}.{name}"
            usual = [f"{key}={value!r}" for key, value in operation.defaults.items()]
            given = ["*", "index=None", *operation.example, *usual, *operation.options]
            call = f"{place}(key, images, {', '.join(given)})"
            source[0] += f"\n```{{eval-rst}}\n.. autofunction:: {call}\n```\n"


def _shorten(app, what, name, thing, options, lines):
    """Leaves out of each corruption what all of them share."""
    if isinstance(thing, Operation):
        text = f"{inspect.cleandoc(thing.text)}\n\nSource:\n"
        lines[:] = f"{text}    {SOURCES.get(thing.source, thing.source)}".splitlines()


def _skip(app, what, name, thing, skip, options):
    """Leaves out the fields of named tuples, which the docstring of the class has."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def _readable(app, what, name, thing, options, signature, returns):
    """Leaves out defaults that are no Python, which would spoil all types beside."""
    shown = signature and re.sub(r"<\w+( [\w.]+(<lambda>)?)?>", "...", signature)
    return shown, returns


def setup(app):
    """Connects them; docstrings are shortened before they are read as Google's."""
    app.connect("source-read", _fill)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _readable)
    app.connect("autodoc-process-docstring", _shorten, priority=400)
