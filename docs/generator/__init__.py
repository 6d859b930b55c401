"""One module per group of reference pages; `docs/generate.py` calls them."""
