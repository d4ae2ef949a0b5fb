"""What a person starts from the command line, and what ends by itself: none of it runs beside the ledger."""
