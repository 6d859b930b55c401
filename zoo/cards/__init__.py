"""Model cards: front matter for machines, Markdown for people.

card, transform_card, version_card   of a merge, of a transform, of any version
front, text                          what they share
"""
