"""The form of the register holds the other activities of the policy too: without a form, or on two channels at once."""

import hashlib

import pytest

from shared.register import NotInRegister, Register, lint
from shared.register.read import read_files
from shared.register.register import PACKAGED

HEAD = """
id = "{id}"
title = {{ de = "{id}", en = "{id}" }}
controller = "controller"
data_protection_officer = "data-protection-officer"
authority = "state-nrw"
jurisdiction = "DE"
recipients = []
notice = 1
policy = {{ status = "2020-02-05", section = "1", words = {{ de = "5. Februar 2020", en = "5 February 2020" }} }}
sender = {{ party = "controller", name = "Beispielwerk", email = "datenschutz@example.org" }}
"""
LOCATIONS = """
[locations]
storage = ["DE"]
processing = ["DE"]
third_countries = "never"
transfer_grounds = []
safeguards = []
words = { de = "in Deutschland", en = "in Germany" }
"""
SERVER_LOGS = (
    HEAD.format(id="server-logs")
    + """
fields = []
purposes = []
withdrawal = []
statements = { weblog = ["RetentionExecuted", "DataCollected"] }
"""
    + LOCATIONS
    + """
[[observed]]
id = "ip-address"
dpv = "pd:IPAddress"
purposes = ["server-security/internal"]
words = { de = "Ihre IP-Adresse", en = "your IP address" }

[[unasked_purposes]]
id = "server-security"
channel = "internal"
title = { de = "Sicherheit", en = "Security" }
dpv = "dpv:MisusePreventionAndDetection"
legal_basis = "eu-gdpr:A6-1-f"
retention = ["access-log"]
norms = []
interest = { de = "Angriffe abwehren", en = "to fend off attacks" }

[[retention]]
id = "access-log"
starts = ["DataCollected"]
period = "P7D"
then = "delete"
words = { de = "nach 7 Tagen", en = "after 7 days" }
"""
)
WHITEPAPER = (
    HEAD.format(id="whitepaper")
    + """
withdrawal = [{ id = "link", words = { de = "per Link", en = "by link" } }]
observed = []
statements = { forms = ["ConsentGiven", "ConsentWithdrawn", "DataCollected"] }
"""
    + LOCATIONS
    + """
[[fields]]
id = "email"
kind = "email"
mandatory = true
dpv = "pd:EmailAddress"
purposes = ["whitepaper-delivery/email", "whitepaper-offers/email"]

[[purposes]]
id = "whitepaper-offers"
channel = "email"
title = { de = "Angebote per E-Mail", en = "Offers by e-mail" }
dpv = "dpv:DirectMarketing"
legal_basis = "eu-gdpr:A6-1-a-explicit-consent"
norms = []
least_grade = "B"
valid = "until-withdrawn"
depends_on = []
retention = ["calls-proof"]

[[purposes]]
id = "whitepaper-offers"
channel = "phone"
title = { de = "Angebote per Telefon", en = "Offers by phone" }
dpv = "dpv:DirectMarketing"
legal_basis = "eu-gdpr:A6-1-a-explicit-consent"
norms = []
least_grade = "A"
valid = "P24M"
depends_on = []
retention = ["calls-proof"]

[[unasked_purposes]]
id = "whitepaper-delivery"
channel = "email"
title = { de = "Zusendung", en = "Delivery" }
dpv = "dpv:RequestedServiceProvision"
legal_basis = "eu-gdpr:A6-1-b"
norms = []
retention = ["delivery"]

[[retention]]
id = "calls-proof"
starts = ["ConsentGiven", "ConsentWithdrawn"]
period = "P5Y"
then = "delete"
despite_erasure = "eu-gdpr:JustificationA17LegallyRequired"
words = { de = "nach 5 Jahren", en = "after 5 years" }

[[retention]]
id = "delivery"
starts = ["DataCollected"]
period = "P30D"
then = "delete"
words = { de = "nach 30 Tagen", en = "after 30 days" }
"""
)
FORM = """
[____] email: {email}

[ ] whitepaper-offers/email: {first}

[ ] whitepaper-offers/phone: {second}

[>] {button}
"""
PARTIES = """
Beispielwerk GmbH, Musterweg 5, 01099 Dresden, datenschutz@example.org

Dr. Mara Beispiel, Musterallee 140, 53113 Bonn, datenschutzbeauftragte@example.org

"""
GERMAN_FACTS = (
    "Landesbeauftragte für Datenschutz und Informationsfreiheit Nordrhein-Westfalen, 5. Februar 2020, in Deutschland, "
    "Art. 15 DSGVO, Art. 16 DSGVO, Art. 17 DSGVO, Art. 18 DSGVO, Art. 20 DSGVO, Art. 21 DSGVO, Art. 22 DSGVO, "
    "Art. 77 DSGVO, Art. 7 Abs. 3 DSGVO, Art. 6 Abs. 1 Satz 1 Buchst. a DSGVO, Art. 6 Abs. 1 Satz 1 Buchst. b DSGVO, "
    "Art. 6 Abs. 1 Satz 1 Buchst. f DSGVO"
)
ENGLISH_FACTS = (
    "State Commissioner for Data Protection and Freedom of Information of North Rhine-Westphalia, 5 February 2020, "
    "in Germany, Art. 15 GDPR, Art. 16 GDPR, Art. 17 GDPR, Art. 18 GDPR, Art. 20 GDPR, Art. 21 GDPR, Art. 22 GDPR, "
    "Art. 77 GDPR, Art. 7(3) GDPR, Art. 6(1)(a) GDPR, Art. 6(1)(b) GDPR, Art. 6(1)(f) GDPR"
)


def notice(form: str, facts: str) -> bytes:
    return f"# Title\n{form}\n## Facts\n{PARTIES}{facts}\n".encode()


@pytest.fixture(scope="module")
def register() -> Register:
    files = read_files(PACKAGED)
    files["sources.toml"] += b'\n[sources.weblog]\ndoes = "keeps logs"\n[sources.forms]\ndoes = "takes forms"\n'
    files["activities/server-logs.toml"] = SERVER_LOGS.encode()
    files["notices/server-logs/1.de.md"] = notice(
        "",
        f"Ihre IP-Adresse, Angriffe abwehren, nach 7 Tagen, {GERMAN_FACTS}",
    )
    files["notices/server-logs/1.en.md"] = notice(
        "",
        f"your IP address, to fend off attacks, after 7 days, {ENGLISH_FACTS}",
    )
    files["activities/whitepaper.toml"] = WHITEPAPER.encode()
    german = FORM.format(email="Adresse", first="Ja, per E-Mail.", second="Ja, per Telefon.", button="Senden")
    english = FORM.format(email="Address", first="Yes, by e-mail.", second="Yes, by phone.", button="Send")
    files["notices/whitepaper/1.de.md"] = notice(german, f"per Link, nach 5 Jahren, nach 30 Tagen, {GERMAN_FACTS}")
    files["notices/whitepaper/1.en.md"] = notice(english, f"by link, after 5 years, after 30 days, {ENGLISH_FACTS}")
    files["notices.lock"] = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {path}\n"
        for path, content in files.items()
        if path.startswith("notices/")
    ).encode()
    return Register.from_files(files)


def test_an_activity_without_a_form_fits(register: Register) -> None:
    logs = register.activity("server-logs")

    assert logs.keeps("ip-address")
    assert logs.purposes == ()
    assert logs.notice("de").choices == ()
    assert register.restricting_sources("server-security", "internal") == frozenset()


def test_one_purpose_on_two_channels_is_two_decisions(register: Register) -> None:
    whitepaper = register.activity("whitepaper")

    assert whitepaper.purpose("whitepaper-offers", "phone").least_grade == "A"
    assert str(whitepaper.purpose("whitepaper-offers", "phone").valid) == "P24M"
    assert whitepaper.notice("en").label("whitepaper-offers", "phone") == "Yes, by phone."
    assert whitepaper.notice("en").label("whitepaper-offers", "email") == "Yes, by e-mail."


def test_a_purpose_is_found_without_naming_its_activity(register: Register) -> None:
    assert register.activity_of("whitepaper-offers", "email").id == "whitepaper"
    assert register.activity_of("newsletter", "email").id == "newsletter"
    with pytest.raises(NotInRegister):
        register.activity_of("whitepaper-delivery", "email")


def test_what_one_activity_lets_a_source_state_holds_for_no_other(register: Register) -> None:
    assert register.may_state("forms", "ConsentWithdrawn", "whitepaper")
    assert not register.may_state("forms", "ConsentWithdrawn", "newsletter")
    assert register.restricting_sources("whitepaper-offers", "phone") == {"forms"}
    assert register.restricting_sources("newsletter", "email") == {"newsletter"}


def test_a_delivery_that_was_ordered_is_no_advertising_and_needs_no_box(register: Register) -> None:
    assert {finding.code for finding in lint(register) if finding.where.startswith("whitepaper")} == {
        "authority-elsewhere",
    }
