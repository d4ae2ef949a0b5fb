"""The log as its writer keeps it: leaves, secrets, tree, tiles and state map, incremental and fast.

Written from docs/formats.md alone. `services.ledger.reader` says the same a second time in plain words; neither
imports the other, so that a mistake in one is seen by the other before anything is signed.
"""
