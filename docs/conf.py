"""How Sphinx builds these pages: MyST Markdown, the furo theme, every warning an error."""

from importlib.metadata import version as installed_version

project = "zoo"
author = "the zoo authors"
copyright = author
version = release = installed_version("zoo-registry")

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"zoo {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "monokai"
