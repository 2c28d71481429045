# SPDX-License-Identifier: Apache-2.0
"""How the documentation site is made: ``sphinx-build -W --keep-going -n -c docs . SITE``.

The source is the whole repository, so that the pages' links to README, CONTRIBUTING and the results lead to pages of
the site, as they do in the repository. The network is not used.
"""

from __future__ import annotations

import json
import pkgutil
from importlib.metadata import version as version_of

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "monai_salm"
author = "monai_salm contributors"
version = release = version_of("monai_salm")

root_doc = "docs/index"
include_patterns = ["docs/**", "*.md", "benchmarks/*.md", "bundles/*/docs/*.md"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
exclude_patterns = ["docs/_*"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 3  # links to headings, as repositories make them
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True}
napoleon_google_docstring, napoleon_numpy_docstring = True, False

nitpicky = True
nitpick_ignore_regex = [
    # Other packages: their inventories are on the network, which a build does not use.
    (r"py:.*", r"(abc|io|os|pathlib|collections|typing|numpy|np|torch|nn|monai)\..*"),
    (r"py:class", r"Path|NDArray|KeysCollection"),
    # Our own, of modules that have no page, by their short names; the text says what they are.
    (r"py:class", r"Target|CellPlanes|LearningTask|NetworkEnsemble|ArchivePlace|RoundLog|Outside|Ranks"),
    (r"py:func", r"sync|decide|task_from_json|size_multiple"),
    (r"py:data", r"[A-Z_]+"),
    (r"py:exc", r"DiskError"),
]

html_theme = "furo"
html_title = f"monai_salm {release}"
html_copy_source = False
html_show_copyright = False
html_extra_path = ["_site", "tutorial.ipynb"]  # the front door of the site's root, and the notebook to download
html_static_path, html_css_files = ["_site"], ["wide.css"]


def _own_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: Element) -> Element | None:
    """Lead a name of ours that a docstring gives by the module that defines it to its page; one that has none stays
    text. One that does not exist is a warning.
    """
    target = str(node.get("reftarget", ""))
    module, _, name = target.rpartition(".")
    domain = env.get_domain("py")
    for room in ("monai_salm", "monai_salm.transforms", "monai_salm.pipeline", "monai_salm.evaluate", "monai_salm.io"):
        if f"{room}.{name}" in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], f"{room}.{name}", node, text)
    return text if module.startswith("monai_salm.") and _is_there(target) else None


def _is_there(target: str) -> bool:
    try:
        return pkgutil.resolve_name(target) is not None
    except (ImportError, AttributeError):
        return False


def _notebook_as_markdown(app: Sphinx, name: str, source: list[str]) -> None:
    """Show a notebook as its text and its code."""
    if app.env.doc2path(name).suffix == ".ipynb":
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(source[0])["cells"]]
        source[0] = "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)
        source[0] += '\n\n<a href="../tutorial.ipynb" download>Download this page as a notebook</a>\n'


def setup(app: Sphinx) -> None:
    """Tell Sphinx of both."""
    app.connect("source-read", _notebook_as_markdown)
    app.connect("missing-reference", _own_name)
