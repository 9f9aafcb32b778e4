"""How the pages of this folder become the documentation site: `sphinx-build -W docs build/docs`.

What the pages say belongs in them and in the docstrings. The site loads nothing from elsewhere: no
fonts, no scripts, formulas as MathML.
"""

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.util.docutils import SphinxDirective

import fastopt

project = "fastopt"
author = "the fastopt developers"
version = release = fastopt.__version__
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "py:obj"  # what docstrings name in backticks is a link where there is such a thing

autosummary_generate = False  # its tables head the API pages; the pages themselves are written
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # np.float32, not what it prints as
autodoc_typehints = "none"  # the docstrings say more: shapes, dtypes, units
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]  # headed "Attributes", as parameters
toc_object_entries_show_parents = "hide"

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"fastopt {release}"
html_theme_options = {
    "source_repository": "https://github.com/fastopt/fastopt/",
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view"],
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


def _shorten_options(_app, what, _name, obj, _options, lines):
    """Describe the options in full once, on the first optimizer: all take the same."""
    others = [getattr(fastopt, name) for name in fastopt.optimizers.__all__[1:]]
    if what == "class" and obj in others:
        first, end = lines.index("Other Parameters"), lines.index("Raises")
        entry = ["**options", "    Those of `SGD`, by keyword: :doc:`/options`.", ""]
        lines[first:end] = ["Other Parameters", "-" * len("Other Parameters"), *entry]


class Optimizers(SphinxDirective):
    """All optimizers of the current module: a summary, then each class.

    The members named, which are the same in all, are described with the first.
    """

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        """Return the nodes of what a page would say by hand."""
        names = fastopt.optimizers.__all__
        members = [f"   :members: {self.arguments[0]}"] if self.arguments else []
        lines = [".. autosummary::", "   :signatures: none", "", *(f"   {n}" for n in names), ""]
        lines += [f".. autoclass:: {names[0]}", *members, ""]
        lines += [f".. autoclass:: {n}\n" for n in names[1:]]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app):
    """Show formulas as MathML, which browsers draw themselves."""
    app.connect("autodoc-process-docstring", _shorten_options, priority=400)  # before napoleon
    app.add_directive("optimizers", Optimizers)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
