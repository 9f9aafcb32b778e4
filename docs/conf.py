"""How the pages of this folder become the documentation site: `sphinx-build -W docs build/docs`.

What the pages say belongs in them and in the docstrings. The site loads nothing from elsewhere: no
fonts, no scripts, formulas as MathML.
"""

from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx import addnodes

import fastopt

ROOT = Path(__file__).parents[1]

project = "fastopt"
author = "the fastopt developers"
version = release = fastopt.__version__
project_copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "py:obj"  # what docstrings name in backticks is a link where there is such a thing

toc_object_entries = False  # the names alone would fill the sidebar
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more: shapes, dtypes, units
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "alabaster"  # comes with Sphinx
html_title = f"fastopt {release}"
html_theme_options = {
    "description": "Optimizers on dicts of NumPy arrays, compiled, bit for bit equal to NumPy",
    "fixed_sidebar": True,
    "page_width": "1180px",
    "code_font_size": "0.82em",
    "sidebar_width": "230px",
    "show_powered_by": False,
}
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_copyright = False
html_copy_source = False


def _mathml(latex, *, as_block):
    return latex2mathml.tex2mathml(latex, as_block=as_block)


def _inline(translator, node):
    translator.body.append(_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(translator, node):
    translator.body.append(f'<div class="formula">{_mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def _unlink_sources(_app, doctree):
    """Leave of the README's links to files that are not on the site what they say, no more."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link["reftype"] == "myst" and (ROOT / link["reftarget"]).is_file():
            link.replace_self(link.children)


def setup(app):
    """Show formulas as MathML, which browsers draw themselves."""
    app.connect("doctree-read", _unlink_sources)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
