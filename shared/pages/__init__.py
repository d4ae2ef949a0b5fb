"""Pages people see: templates and texts in two languages, one style sheet inside each page, nothing that runs.

A service has `pages/*.html` and `texts.de.toml`, `texts.en.toml` beside its code; templates extend `base.html`.
In a template: `t("form.title")` is a text, `t("form.hello", name=name)` one with values, `language` and
`languages` are what they say, `switch(language)` is this page in another language.
"""

import base64
import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shared.web import language as language_of

LANGUAGES: Final = ("de", "en")
_HERE: Final = Path(__file__).parent


class MissingText(Exception):
    """A template asks for a text that this language does not have."""


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested TOML tables as dotted keys."""
    texts: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            texts.update(flatten(value, f"{prefix}{key}."))
        else:
            texts[prefix + key] = str(value)
    return texts


class Texts:
    """The words of one language. In a template a text is escaped like any other value."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language = language
        self._texts = texts

    def __call__(self, key: str, **values: object) -> str:
        """The text for a key, with `{name}` replaced by its value."""
        text = self._texts.get(key)
        if text is None:
            raise MissingText(self.language, key)
        return text.format_map(values) if values else text

    def html(self, key: str, **values: object) -> Markup:
        """A text that may hold markup of ours; values are escaped."""
        return Markup(self(key)).format(**values)  # noqa: S704 - the text is ours; Markup.format escapes the values

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def keys(self) -> set[str]:
        return set(self._texts)


def load_texts(directories: tuple[Path, ...], language: str) -> Texts:
    """Later directories win, so that a service may word a shared text differently."""
    texts: dict[str, str] = {}
    for directory in directories:
        path = directory / f"texts.{language}.toml"
        if path.is_file():
            texts.update(flatten(tomllib.loads(path.read_text("utf-8"))))
    return Texts(language, texts)


_VERIFIES: Final = "; script-src 'self'; connect-src 'self'"


class Pages:
    """The templates and texts of one service, on top of the shared ones."""

    def __init__(self, name: str, *directories: Path) -> None:
        self.name = name
        style = (_HERE / "style.css").read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
        self._policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self' data:; "
            "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        self._texts = {language: load_texts((_HERE, *directories), language) for language in LANGUAGES}
        self._environment = Environment(
            loader=ChoiceLoader([FileSystemLoader([*(directory / "pages" for directory in directories), _HERE])]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        # Marked as safe because it is a file of ours, and hashed for the policy exactly as it stands in the page.
        self._environment.globals.update(style=Markup(style), languages=LANGUAGES, service=name)  # noqa: S704

    def texts(self, language: str) -> Texts:
        return self._texts[language]

    def render(
        self,
        template: str,
        language: str,
        *,
        status: int = 200,
        request: Request | None = None,
        headers: Mapping[str, str] | None = None,
        verifies: bool = False,
        **values: Any,
    ) -> HTMLResponse:
        """The page as an answer that nobody caches. `request` only keeps the query when the language is switched;
        a page that answers a POST is given none, and links to its GET. One that `verifies` a receipt in the browser
        may run the scripts of this origin, which are the verifier's, and ask this origin for the receipt."""
        query = {} if request is None else {k: v for k, v in request.query_params.items() if k != "lang"}

        def switch(other: str) -> str:
            return "?" + urlencode({**query, "lang": other})

        body = self._environment.get_template(template).render(
            t=self._texts[language], language=language, switch=switch, **values
        )
        return HTMLResponse(
            body,
            status,
            headers={
                "Cache-Control": "no-store",
                "Content-Language": language,
                "Content-Security-Policy": self._policy + (_VERIFIES if verifies else ""),
                "Vary": "Accept-Language",
                **(headers or {}),
            },
        )

    def error(self, request: Request, status: int, code: str, message: str) -> HTMLResponse:
        """What a person sees when something is refused: the text for the code if there is one, else the message."""
        language = language_of(request)
        texts = self._texts[language]
        key = f"error.{code}"
        generic = "error.unavailable" if status >= 500 else "error.refused"
        words = texts(key) if key in texts else (message if language == "en" else texts(generic))
        return self.render("error.html", language, status=status, message=words, code=code)
