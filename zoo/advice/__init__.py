"""Which experts merge well, how, and why.

records    what the registry knows of them
advise     a pure function of that
"""
