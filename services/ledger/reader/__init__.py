"""The verifier of the log: plain code, written from docs/formats.md alone, that shares nothing with the writer."""
