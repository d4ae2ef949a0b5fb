"""The evidence bundle as one HTML page that verifies itself, offline, in any current browser (docs/formats.md §18).

The archive's exact bytes lie in it, and the two scripts that check and show them. Nothing of the bundle is written into
the page from here: a browser reads it from the verified bytes, or shows nothing of it. The policy lets exactly these
scripts run, and a hash of all that stands around the archive is inside them, so that no byte of the file is idle.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path
from typing import Final, Literal

from services.ledger.reader.page import BEGINS, ENDS
from shared import pages

PAGES: Final = Path(__file__).parents[1] / "pages"
VERIFIER: Final = PAGES / "verifier.js"

_TITLE: Final = {"de": "Nachweis einer Einwilligung", "en": "Evidence of a consent"}
_UNCHECKED: Final = (
    (
        "Nicht geprüft. Diese Datei prüft sich selbst, sobald ihr Skript läuft. Bleibt dieser Satz stehen, dann ist "
        "die Datei verändert oder JavaScript ausgeschaltet."
    ),
    (
        "Not checked. This file verifies itself as soon as its script runs. If this sentence stays, the file was "
        "altered or JavaScript is off."
    ),
)
_COMMAND: Final = "consent-ledger verify FILE.html --vkey KEY"
_SURROUNDINGS: Final = "@surroundings@"


def page_of(bundle: bytes, language: Literal["de", "en"] = "de") -> bytes:
    """The page around this bundle; which language it opens in is all that is chosen here."""
    style = (Path(pages.__file__).parent / "style.css").read_text("utf-8")
    # No space between the tags: a browser would not notice another byte there.
    metas = (
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
    )
    title = f"<title>{_TITLE[language]}</title>"
    look = f'<style id="look">{style}</style>'
    german, english = _UNCHECKED
    main = (
        f'<main id="content" tabindex="-1"><h1>{_TITLE[language]}</h1>'
        f'<p class="notice" lang="de">{german}</p><p class="notice" lang="en">{english}</p>'
        f"<pre><code>{_COMMAND}</code></pre></main>"
    )
    policy = _policy("", _hash(style))  # not the script's hash, which follows from what is hashed here
    begins = BEGINS.decode()
    surroundings = "\0".join(
        ["html", "CSS1Compat", "UTF-8", language, policy, f"{begins}</script>", *metas, title, look, main]
    )
    shown = (PAGES / "evidence-page.js").read_text("utf-8")
    script = VERIFIER.read_text("utf-8") + shown.replace(
        _SURROUNDINGS, hashlib.sha256(surroundings.encode()).hexdigest()
    )
    allowed = _policy(f" {_hash(script)}", _hash(style))
    before = f'<!doctype html><html lang="{language}">{metas[0]}{allowed}{metas[1]}{metas[2]}{title}{look}{main}'
    return before.encode() + BEGINS + b64encode(bundle) + ENDS + f"<script>{script}</script>".encode()


def _policy(script: str, style: str) -> str:
    """Nothing may be loaded from anywhere, nothing sent; these scripts and this style alone may run."""
    said = f"default-src 'none'; script-src{script}; style-src {style}; base-uri 'none'; form-action 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{said}">'


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
