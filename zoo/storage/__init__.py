"""Where bytes live: found by digest, written once, and published whole or not at all.

store, links, locks      objects, views of versions, and how bytes come in without being copied
placing, copying         staged files into the store, to last; files out of it
ingest, register         from a source to staged files, and to a version
publish                  the one way a version comes into being
artifacts, exporting     what lies beside an expert; versions written in other formats
known_digests            what need not be hashed again
flat_digests             plain sha256 of what the store names otherwise
becoming                 directories outside the store, whole or not at all
refusals                 what the system refuses, as errors that say what to do
fsck, gc                 is all of it there, and what may go
"""
