"""How `make site` builds these pages: Sphinx, MyST and the Furo theme (CONTRIBUTING.md says why)."""

import sys
from pathlib import Path

import sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "tinyseq"
author = "The tinyseq developers"
copyright = "the tinyseq developers. MIT licence"

# Whatever lies in _extensions is an extension; its docstring says what it does.
extensions = ["myst_parser", "sphinx.ext.autodoc", *sorted(path.stem for path in HERE.glob("_extensions/[!_]*.py"))]
exclude_patterns = ["_*"]
nitpicky = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

highlight_language = "text"                     # of blocks that name none: shells, and what they print

html_theme = "furo"
html_title = "tinyseq"
html_static_path = ["_static", str(Path(sphinx.__file__).parent / "locale/zh_CN/LC_MESSAGES/sphinx.js")]
templates_path = ["_templates"]
html_additional_pages = {"search.zh": "search.html"}
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"                   # _extensions/mathml.py
html_search_language = "en-zh"                  # _extensions/chinese.py
pygments_style, pygments_dark_style = "default", "github-dark"
