"""What a bundle shows, in the words of one language, in the order of the evidence set; how it looks is not said here.

Made from the verified bundle alone, so the printed document can say nothing that the attached file does not hold.
A section is a heading with blocks: text, facts, table, list, verbatim.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from services.ledger.reader import evidence as layout
from services.ledger.reader.entry import Recorded
from services.ledger.reader.evidence import Bundle
from services.ledger.reader.mail import Mail, dkim_names, parse_dkim_keys, parse_mail, verify_dkim
from services.ledger.reader.note import parse_note
from services.ledger.reader.served import Served, parse_notice_keys, verify_served
from services.ledger.reader.stated_by import stated_by
from services.ledger.reader.strict import moment
from shared.clock import from_millis, parse_rfc3339, rfc3339
from shared.events import EVERYTHING, RESTRICTIVE, purpose_matter
from shared.pages import Texts, load_texts

HERE: Final = Path(__file__).parent / "pdf"
NAME: Final = "evidence.zip"
_LOCAL: Final = ZoneInfo("Europe/Berlin")
_STEP: Final = "document"
_KEY_IN_A_LINK: Final = re.compile(r"(?<=[/=])[A-Za-z0-9_-]{22,}", re.ASCII)
"""What makes a link work for whoever has it: to confirm, to withdraw, to open a receipt. No word is so long there."""

Value = str | dict[str, str]
"""A text, or `{"code": …}`: a hash, key or address, set so that each character can be told."""
Block = dict[str, Any]
Section = dict[str, Any]


def texts_of(language: str) -> Texts:
    """The document's words; Refused by the caller if there are none in this language."""
    return load_texts((HERE,), language)


def _code(text: str) -> Value:
    return {"code": text}


def _text(text: str) -> Block:
    return {"kind": "text", "text": text}


def _masked(text: str) -> str:
    """The text without what would let its readers press the person's buttons."""
    return _KEY_IN_A_LINK.sub("[…]", text)


def _facts(*rows: tuple[str, Value]) -> Block:
    return {"kind": "facts", "rows": rows}


def _header(mail: Mail, name: str) -> str | None:
    """A header as people read it (RFC 2047); as it stands if that cannot be."""
    raw = mail.only(name)
    try:
        return None if raw is None else str(make_header(decode_header(raw)))
    except (ValueError, LookupError):
        return raw


def _table(head: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[Value]]) -> Block:
    return {"kind": "table", "head": head, "widths": widths, "rows": rows}


@dataclass
class Document:
    """One bundle in one language."""

    bundle: Bundle
    packed: bytes
    language: str
    software: str
    newsletter_url: str = ""

    def __post_init__(self) -> None:
        self.texts = texts_of(self.language)
        said = self.bundle.recorded
        self.requests = [one for one in said if one.statement.type == "ConsentRequested"]
        self.given = [one for one in said if one.statement.type == "ConsentGiven"]
        follows_request = {one.statement.id for one in self.requests}
        self.mails = [
            one
            for one in said
            if one.statement.type == "MessageSent" and follows_request & set(one.statement.data.follows)
        ]
        newest = said[-1].statement.data
        self.register: Mapping[str, Any] = self.bundle.registers[newest.register_version]["files"]
        self.activity: Mapping[str, Any] = self.register[f"activities/{newest.activity}.toml"]
        self.controller: Mapping[str, Any] = self.register["parties.toml"]["parties"][newest.controller]

    def content(self) -> dict[str, Any]:
        """Everything the template asks for, as plain data."""
        bundle, t = self.bundle, self.texts
        fresh = from_millis(self._fresh_seconds() * 1000)
        return {
            "language": self.language,
            "title": t("title"),
            "subtitle": t(
                "subtitle",
                purpose=self._purpose_title(),
                channel=bundle.channel,
                controller=self.controller["name"],
            ),
            "date": [fresh.year, fresh.month, fresh.day],
            "footer": t("footer", subject=bundle.subject, origin=bundle.origin, size=bundle.size),
            "page": t("page", page="{page}", pages="{pages}"),
            "sections": [self._section(name, blocks) for name, blocks in self._sections()],
        }

    def _section(self, name: str, blocks: Sequence[Block]) -> Section:
        return {"heading": self.texts(f"{name}.heading"), "blocks": blocks}

    def _sections(self) -> Iterator[tuple[str, Sequence[Block]]]:
        yield "summary", self._summary()
        yield "person", list(self._person())
        yield "notice", list(self._notices())
        yield "form", list(self._form())
        yield "request", list(self._requests())
        yield "mail", list(self._mail())
        yield "token", list(self._token())
        yield "confirm", list(self._confirmations())
        yield "status", self._status()
        yield "uses", self._uses()
        yield "withdrawals", self._withdrawals()
        yield "process", self._process()
        yield "closed", self._closed()
        yield "limits", self._limits()
        yield "verify", self._verify()

    # -- the sections

    def _summary(self) -> list[Block]:
        bundle, t = self.bundle, self.texts
        shown = [one for one in bundle.shown if not one.given.overtaken]
        blocks = [_text(t("summary.not_given"))]
        if shown:
            newest = shown[-1]
            at = self._time(newest.given.statement.time)
            grade = str(newest.grade)
            blocks = [_text(t("summary.given", at=at, grade=grade, words=self._grade_words(newest.given, grade)))]
            if newest.rests_on_its_source:
                blocks.append(_text(t("summary.rests", source=newest.given.statement.source)))
        if bundle.holds:
            blocks.append(_text(t("summary.holds", size=bundle.size)))
        else:
            blocks.append(_text(t("summary.ended", size=bundle.size, word=self._last_word())))
        blocks.append(_text(t("summary.latest" if bundle.latest_proven else "summary.not_latest")))
        return [
            *blocks,
            _facts(
                (t("summary.fact_subject"), _code(bundle.subject)),
                (t("summary.fact_purpose"), f"{self._purpose_title()} ({bundle.purpose}/{bundle.channel})"),
                (t("summary.fact_controller"), ", ".join([self.controller["name"], *self.controller["address"]])),
                (t("summary.fact_sender"), f"{self.activity['sender']['name']} <{self.activity['sender']['email']}>"),
                (t("summary.fact_origin"), _code(bundle.origin)),
                (t("summary.fact_size"), str(bundle.size)),
                (t("summary.fact_fresh"), moment(self._fresh_seconds())),
            ),
            _text(t("summary.attached", name=NAME)),
            _text(t("summary.private")),
            _facts((t("summary.fact_hash", name=NAME), _code(hashlib.sha256(self.packed).hexdigest()))),
            _text(t("escaped")),
        ]

    def _person(self) -> Iterator[Block]:
        t = self.texts
        if not self.requests:
            yield _text(t("person.missing"))
        for one in self.requests:
            evidence = self._evidence(one)
            yield _text(t("person.request", index=one.index))
            yield _facts(
                (t("person.typed"), self._opened(evidence, "address")),
                (t("person.normalised"), self._opened(evidence, "normalised")),
            )

    def _notices(self) -> Iterator[Block]:
        t = self.texts
        shown: dict[str, list[Recorded]] = {}
        for one in self.bundle.recorded:
            if (notice := getattr(one.statement.data, "notice", None)) is not None:
                shown.setdefault(notice.hash, []).append(one)
        yield _text(t("notice.lead"))
        for digest, named in shown.items():
            language = named[0].statement.data.notice.language
            yield _facts(
                (t("notice.hash"), _code(digest)),
                (t("notice.language"), language),
                (t("notice.index"), ", ".join(str(one.index) for one in named)),
            )
            text = self.bundle.files[f"notices/{digest}.txt"].decode()
            yield {"kind": "verbatim", "language": language, "text": text}

    def _form(self) -> Iterator[Block]:
        t = self.texts
        keys = parse_notice_keys(_STEP, self.bundle.files[layout.NOTICE_KEYS])
        for one in self.requests:
            echoed = one.statement.data.served
            if echoed is None:
                yield _text(t("form.missing"))
            elif one.statement.id not in self.bundle.served:
                yield _text(t("form.unverified"))
            else:
                yield from self._boxes(one, verify_served(_STEP, keys, echoed.token))
        if not self.requests:
            yield _text(t("form.missing"))
        yield _text(t("form.separate"))

    def _boxes(self, one: Recorded, served: Served) -> Iterator[Block]:
        t = self.texts
        yield _text(t("form.lead", index=one.index))
        act = one.statement.data.act
        asked = {
            (other.statement.data.purpose, other.statement.data.channel)
            for other in self.requests
            if other.statement.data.act == act
        }
        rows: list[list[Value]] = []
        for box in served.boxes:
            key = (box.purpose, box.channel)
            # What the other boxes of the form came to is another purpose's evidence.
            mine = key == (self.bundle.purpose, self.bundle.channel)
            after = t("yes" if key in asked else "no") if mine else "–"
            rows.append([box.label, f"{box.purpose}/{box.channel}", t("yes" if box.ticked else "no"), after])
        head = [t(f"form.{name}") for name in ("box", "purpose", "before", "after")]
        yield _table(head, [5, 3, 2, 2], rows)
        yield _facts((t("form.button"), served.button))
        yield _text(t("form.verified"))

    def _requests(self) -> Iterator[Block]:
        t = self.texts
        if not self.requests:
            yield _text(t("request.missing"))
        for one in self.requests:
            evidence, data = self._evidence(one), one.statement.data
            yield _facts(
                (t("request.index"), str(one.index)),
                (t("request.time"), self._time(one.statement.time)),
                (t("request.recorded"), self._recorded(one)),
                (t("request.method"), self._coded(data.method)),
                (t("request.expires"), self._time(data.expires_at)),
                (t("request.agent"), self._opened(evidence, "user_agent")),
                (t("request.form_version"), self._opened(evidence, "form_version")),
                (t("request.address_of_network"), self._opened(evidence, "ip", t("request.not_kept"))),
                (t("request.url"), t("unknown")),
            )

    def _mail(self) -> Iterator[Block]:
        t = self.texts
        if not self.mails:
            yield _text(t("mail.missing"))
        for one in self.mails:
            data, evidence = one.statement.data, self._evidence(one)
            answer = t("sealed")
            if evidence is not None:
                answer = f"{evidence.get('smtp_code', '')} {evidence.get('smtp_answer', '')}".strip() or t("unknown")
            yield _facts(
                (t("mail.index"), str(one.index)),
                (t("mail.message_id"), _code(data.message_id)),
                (t("mail.time"), self._time(one.statement.time)),
                (t("mail.outcome"), t(f"mail.outcomes.{data.outcome}")),
                (t("mail.attempts"), str(data.attempts)),
                (t("mail.smtp"), answer),
            )
            for part in data.attachments:
                raw = self.bundle.opened.get((one.statement.id, part.compartment))
                if raw is None:
                    yield _text(f"{part.kind}: {t('sealed')}")
                elif part.media_type == "message/rfc822":
                    yield from self._archived(raw, layout.opened_name(one.index, part.compartment, part.media_type))

    def _archived(self, raw: bytes, name: str) -> Iterator[Block]:
        t, mail = self.texts, parse_mail(_STEP, raw)
        keys = parse_dkim_keys(_STEP, self.bundle.files[layout.DKIM_KEYS])
        dkim = t("mail.dkim_no_key")
        if dkim_names(_STEP, mail) in keys:
            signed = verify_dkim(_STEP, mail, keys)
            dkim = t("mail.dkim_valid", domain=signed.domain, selector=signed.selector)
        headers = [
            (t(f"mail.{header}"), _header(mail, header) or t("none")) for header in ("from", "to", "subject", "date")
        ]
        yield _facts(*headers, (t("mail.dkim"), dkim))
        yield _text(t("mail.archived", name=name))
        yield _text(t("mail.body") + ":")
        yield {"kind": "verbatim", "text": _masked(mail.text)}
        yield _text(t("mail.masked"))

    def _token(self) -> Iterator[Block]:
        t, pair = self.texts, f"{self.bundle.purpose}/{self.bundle.channel}"
        yield _text(t("token.lead"))
        for one in self.requests:
            data = one.statement.data
            bound = t("token.bound_to", request=one.index, notice=data.notice.hash[:16] + "…", purpose=pair)
            yield _facts(
                (t("token.hash"), _code(data.token_hash)),
                (t("token.bound"), bound),
                (t("token.validity"), t("token.once", until=self._time(data.expires_at))),
            )

    def _confirmations(self) -> Iterator[Block]:
        t = self.texts
        yield _text(t("confirm.lead") if self.given else t("confirm.missing"))
        yield _text(t("confirm.gets"))
        grades = {shown.given.index: str(shown.grade) for shown in self.bundle.shown}
        for one in self.given:
            data, grade = one.statement.data, grades[one.index]
            yield _facts(
                (t("confirm.index"), str(one.index)),
                (t("confirm.time"), self._time(one.statement.time)),
                (t("confirm.recorded"), self._recorded(one)),
                (t("confirm.method"), self._coded(data.method)),
                (t("confirm.fetched"), self._fetched(one)),
                (t("confirm.agent"), self._opened(self._evidence(one), "user_agent")),
                (t("confirm.basis"), self._basis(data.legal_basis)),
                (t("confirm.expression"), self._coded(data.expression)),
                (t("confirm.grade"), f"{grade}: {self._grade_words(one, grade)}"),
            )
            if one.overtaken:
                yield _text(t("confirm.overtaken"))

    def _fetched(self, one: Recorded) -> str:
        """The GET that brought the page with the button: no act, and told only by the page itself."""
        t, evidence = self.texts, self._evidence(one)
        if evidence is None:
            return t("sealed")
        fetched = str(evidence.get("page_fetched_at"))
        try:
            before = (parse_rfc3339(one.statement.time) - parse_rfc3339(fetched)) // timedelta(milliseconds=1)
        except ValueError:  # other collectors may seal what they like
            return t("confirm.not_fetched")
        return t("confirm.fetched_at", at=self._time(fetched), before=before)

    def _status(self) -> list[Block]:
        bundle, t = self.bundle, self.texts
        assert bundle.checkpoint is not None  # noqa: S101 - the bundle was verified
        rows: list[list[Value]] = [
            [
                str(one.index),
                self._type(one),
                self._time(one.statement.time, short=True),
                self._recorded(one, short=True),
            ]
            for one in bundle.recorded
        ]
        others = [
            t("status.witness", name=line.name, at=moment(int.from_bytes(line.signature[:8], "big")))
            for line in parse_note(bundle.files[layout.CHECKPOINT]).signatures
            if line.name not in {bundle.origin, f"{bundle.origin}/fresh"}
        ]
        stamps = [
            t("status.stamp", size=one.size, at=self._time(one.said, short=True), name=f"timestamps/{one.size}.json")
            for one in bundle.stamps
        ]
        return [
            _text(t("status.lead")),
            _table([t(f"status.{name}") for name in ("index", "what", "time", "recorded")], [0, 3, 3, 3], rows),
            _facts(
                (t("status.root"), _code(bundle.checkpoint.root.hex())),
                (t("status.key"), _code(bundle.signed_by)),
                (t("status.signed"), t("yes")),
                (t("status.fresh"), moment(self._fresh_seconds())),
                (t("status.pin"), _code(bundle.recorded[0].pin.hex())),
                (t("status.witnesses"), "; ".join(others) or t("status.no_witnesses")),
                (t("status.timestamp"), "; ".join(stamps) or t("status.no_timestamp")),
            ),
        ]

    def _uses(self) -> list[Block]:
        bundle, t = self.bundle, self.texts
        sent = {
            name: one
            for one in bundle.recorded
            if one.statement.type == "MessageSent"
            for name in one.statement.data.follows
        }
        rows: list[list[Value]] = []
        for one in bundle.recorded:
            if one.statement.type != "ConsentUsed":
                continue
            message = sent.get(one.statement.id)
            outcome = t("unknown") if message is None else t(f"mail.outcomes.{message.statement.data.outcome}")
            covered = t("yes" if bundle.covered(one.statement) else "no")
            time = self._time(one.statement.time, short=True)
            rows.append([str(one.index), time, one.statement.data.message_id.strip("<>"), outcome, covered])
        if not rows:
            return [_text(t("uses.none"))]
        return [
            _table([t(f"uses.{n}") for n in ("index", "time", "message", "outcome", "covered")], [0, 3, 5, 3, 2], rows)
        ]

    def _withdrawals(self) -> list[Block]:
        t = self.texts
        rows: list[list[Value]] = []
        for one in self.bundle.recorded:
            if one.statement.type not in RESTRICTIVE:
                continue
            data = one.statement.data
            by = ", ".join(self._coded(name) for name in (data.by, getattr(data, "method", "")) if name)
            by = f"{by} ({one.statement.source})"
            time, recorded = self._time(one.statement.time, short=True), self._recorded(one, short=True)
            rows.append([str(one.index), self._type(one), time, recorded, by, self._effect(one)])
        if not rows:
            return [_text(t("withdrawals.none"))]
        head = [t(f"withdrawals.{name}") for name in ("index", "what", "time", "recorded", "by", "effect")]
        return [_table(head, [0, 2, 3, 3, 2, 4], rows), _text(t("withdrawals.systems"))]

    def _effect(self, one: Recorded) -> str:
        t = self.texts
        noted = self.bundle.files.get(f"effects/{one.index}.json")
        if noted is None:
            return t("withdrawals.effect_none")
        told = []
        for system in json.loads(noted)["systems"]:
            sending = ", ".join(system["in_transmission"])
            words = "withdrawals.effect_sending" if sending else "withdrawals.effect_at"
            at = self._time(system["applied_at"], short=True)
            told.append(t(words, system=system["system"], at=at, messages=sending))
        return "; ".join(told) or t("withdrawals.effect_unsaid")

    def _process(self) -> list[Block]:
        t = self.texts
        return [
            _text(t("process.lead")),
            _facts(
                *((t("process.register"), _code(version)) for version in sorted(self.bundle.registers)),
                (
                    t("process.schemas"),
                    ", ".join(sorted({one.statement.dataschema for one in self.bundle.recorded})),
                ),
                *(
                    (t("process.software", entries=where), _code(name) if name else t("process.no_software"))
                    for name, where in stated_by(self.bundle.recorded)
                ),
                (t("process.made"), _code(self.software)),
            ),
        ]

    def _closed(self) -> list[Block]:
        t = self.texts
        parts = []
        for one in self.bundle.recorded:
            data = one.statement.data
            names = [*data.sealed, *(part.compartment for part in getattr(data, "attachments", []))]
            parts += [
                t("closed.part", index=one.index, type=self._type(one), compartment=name)
                for name in names
                if (one.statement.id, name) not in self.bundle.opened
            ]
        if not parts:
            return [_text(t("closed.none"))]
        return [_text(t("closed.lead")), {"kind": "list", "items": parts}]

    def _limits(self) -> list[Block]:
        t = self.texts
        names = ["contact", "clock", "later", "map", "operator", "software", "keys", "effects", "links", "pages"]
        if layout.LATEST in self.bundle.files:
            names.append("label_key")
        url = self.newsletter_url + "/newsletter/notice-keys"
        return [{"kind": "list", "items": [t(f"limits.{name}", url=url) for name in names]}]

    def _verify(self) -> list[Block]:
        t, bundle = self.texts, self.bundle
        program = hashlib.sha256(bundle.files[layout.VERIFIER]).hexdigest() if layout.VERIFIER in bundle.files else ""
        how = "\n".join(t(f"verify.{name}", name=NAME) for name in ("how_short", "how_long"))
        findings = [f"{one.step}: {one.text}" for one in bundle.findings]
        return [
            _text(t("verify.lead", name=NAME)),
            {"kind": "verbatim", "text": how},
            _facts((t("verify.key"), _code(bundle.signed_by)), (t("verify.program"), _code(program))),
            _text(t("verify.findings") + ":"),
            {"kind": "list", "language": "en", "items": findings},
        ]

    # -- words

    def _type(self, one: Recorded) -> str:
        key = f"types.{one.statement.type}"
        return self.texts(key) if key in self.texts else one.statement.type

    def _coded(self, name: str) -> str:
        """A name in a statement as people say it, if we have a word for it."""
        key = f"codes.{name}"
        return self.texts(key) if key in self.texts else name

    def _last_word(self) -> str:
        matters = (purpose_matter(self.bundle.purpose, self.bundle.channel), EVERYTHING)
        words = [one for one in self.bundle.recorded if one.matter in matters and not one.overtaken]
        return self._type(words[-1]) if words else self.texts("none")

    def _purpose_title(self) -> str:
        wanted = (self.bundle.purpose, self.bundle.channel)
        for purpose in self.activity["purposes"]:
            if (purpose["id"], purpose["channel"]) == wanted:
                return str(purpose["title"].get(self.language, purpose["id"]))
        return self.bundle.purpose

    def _basis(self, name: str) -> str:
        found = self.register["rights.toml"]["legal_bases"].get(name, {})
        return str(found.get("article", {}).get(self.language, name))

    def _grade_words(self, one: Recorded, grade: str) -> str:
        rules = self.bundle.registers[one.statement.data.register_version]["files"]["grades.toml"]
        for rule in rules["rules"]:
            for known in rule["grades"]:
                if rule["version"] == rules["current"] and known["grade"] == grade:
                    return str(known["words"].get(self.language, ""))
        return ""

    def _evidence(self, one: Recorded) -> Mapping[str, Any] | None:
        raw = self.bundle.opened.get((one.statement.id, "evidence"))
        found: Mapping[str, Any] | None = None if raw is None else json.loads(raw)
        return found

    def _opened(self, evidence: Mapping[str, Any] | None, name: str, without: str | None = None) -> str:
        if evidence is None:
            return self.texts("sealed")
        return str(evidence[name]) if evidence.get(name) else without or self.texts("none")

    def _time(self, time: str, *, short: bool = False) -> str:
        """As recorded, in UTC to the millisecond; in full also as people in Germany read it."""
        utc = time.replace("T", " ").removesuffix("Z") + " UTC"
        if short:
            return utc
        local = parse_rfc3339(time).astimezone(_LOCAL)
        month = self.texts("months").split()[local.month - 1]
        date = self.texts("date", day=local.day, month=month, year=local.year)
        return f"{date}, {local:%H:%M:%S} {local.tzname()} ({utc})"

    def _recorded(self, one: Recorded, *, short: bool = False) -> str:
        return self._time(rfc3339(from_millis(one.event.recorded_at)), short=short)

    def _fresh_seconds(self) -> int:
        assert self.bundle.fresh is not None  # noqa: S101 - a document is made of a verified bundle
        return self.bundle.fresh.seconds
