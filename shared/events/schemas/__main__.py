"""Write the JSON Schemas of every statement type: `python -m shared.events.schemas`."""

from shared.events.schemas import files

for path, content in files().items():
    path.write_bytes(content)
