"""start: the page at `/`. What runs here, in the order in which a consent travels, and where the pages are.

Reads: whether each part is ready. Writes: nothing. Owns: nothing.
"""
