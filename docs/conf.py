"""How the documentation is built: `make docs`."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "skipscope"
author = "The skipscope authors"
project_copyright = f"2026, {author}"
version = release = installed("skipscope")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "notebooks",
    "plain_docstrings",
    "quantities_table",
]
exclude_patterns = ["_build"]
highlight_language = "text"  # formulas and tables in docstrings are no Python
html_theme = "furo"
html_title = f"skipscope {version}"
html_static_path = ["_static"]
html_css_files = ["notebooks.css"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # autodoc lists a dataclass's fields already; described twice they are an error
