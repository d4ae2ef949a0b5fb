"""One file for a court, in three shapes from one content: ZIP, PDF, and a page that verifies itself."""
