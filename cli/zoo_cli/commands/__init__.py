"""One command per module. Each imports click at its top and everything else when it runs."""
