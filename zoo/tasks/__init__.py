"""Tasks over data in files: declared, derived, read when they are used.

declaration, options    what is said of a task: strict, as plain data
derivations             tasks made of other tasks
data, examples          a task over data that fits in memory
known                   the tasks a registry knows
"""
