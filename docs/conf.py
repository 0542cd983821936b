"""Settings of Sphinx: `make docs` builds the pages of this folder into build/docs."""

from __future__ import annotations

import featcache

project = "featcache"
author = "the featcache authors"
copyright = "the featcache authors, Apache-2.0"
version = release = featcache.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]
nb_execution_mode = "off"  # tests/docs executes the notebooks; the pages show their saved outputs

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings state the types
numpydoc_show_class_members = False  # autodoc lists them
suppress_warnings = ["misc.highlighting_failure"]  # Pygments does not know csv

html_theme = "furo"
html_title = "featcache"
html_static_path: list[str] = []
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#3567a8", "color-brand-content": "#3567a8"},
    "dark_css_variables": {"color-brand-primary": "#86b1e4", "color-brand-content": "#86b1e4"},
}
copybutton_exclude = ".linenos, .gp"
