"""Tasks over data in files: declared, derived, read when they are used."""
