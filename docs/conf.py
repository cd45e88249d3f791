"""How the documentation becomes a site: `make docs`."""

import sys
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

project = "planc"
author = "planc's authors"
version = release = installed("planc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "generate.py"]
source_suffix = {".md": "markdown"}
nitpicky = False

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # pages of measurements begin with tables below other levels

default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_mock_imports = [name for name in ("torch",) if find_spec(name) is None]
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "planc"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False


def _generate(_: Sphinx) -> None:
    from generate import write_pages  # beside this file; it imports planc

    write_pages(Path(__file__).parent / "reference")


def _relink(_: Sphinx, __: str, source: list[str]) -> None:
    """Links to files of the repository's root go to their pages here."""
    source[0] = source[0].replace("](../../SECURITY.md)", "](../security.md)")


def setup(app: Sphinx) -> None:
    """Write the pages that come from the code before anything is read."""
    app.connect("builder-inited", _generate)
    app.connect("source-read", _relink)
