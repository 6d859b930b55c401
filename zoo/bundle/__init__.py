"""A zoo, or a part of it, as one file that another zoo can take in.

    zoo-bundle.json     what this is: format, zoo, size and digest of the catalog, objects
    catalog.jsonl       versions, runs, lineage, aliases, metrics, tasks, rules, audit log
    objects/flat/HEX    the bytes, named by what they hash to
    objects/tree/HEX

A plain tar archive, in this order, without times or owners: the same zoo gives the same bundle.
Versions are called `name@number` in it; row ids belong to one database.

contents        what a bundle says of a zoo
pack            writes one
unpack          reads one, and believes nothing of it
known, take_in  what a zoo has of it already; the rest, added
"""
