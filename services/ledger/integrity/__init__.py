"""Everything stored, held against everything else, by the reader alone: one file per kind of thing that is checked."""
