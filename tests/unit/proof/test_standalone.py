"""The verifier that travels inside a bundle: its own cryptography, and that it judges as the full verifier does."""

from __future__ import annotations

import ast
import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ledger.evidence.bundle import bundle, files_of
from services.ledger.reader import standalone
from services.ledger.reader.errors import Invalid
from services.ledger.reader.evidence import DKIM_KEYS, KNOWN_VERIFIERS, MANIFEST, VERIFIER
from services.ledger.reader.verify import verify
from tests.opt_in import OptIn
from tests.unit.proof.forging import Files, mended, named, with_json

SOURCE = Path(standalone.__file__)


@cache
def story() -> OptIn:
    return OptIn().play()


@cache
def whole() -> bytes:
    return bundle(story().material)


@cache
def files() -> Files:
    return files_of(story().material)


def vkey() -> str:
    return story().world.signer.vkey


# -- its own cryptography


@pytest.mark.parametrize(
    ("public", "message", "signature"),
    [
        # RFC 8032 §7.1: TEST 1, TEST 2, TEST 3, TEST SHA(abc)
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
        (
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            hashlib.sha512(b"abc").hexdigest(),
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
        ),
    ],
)
def test_the_signatures_of_rfc_8032_verify_and_with_another_bit_do_not(
    public: str, message: str, signature: str
) -> None:
    key, said, signed = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert standalone.ed25519_verify(key, said, signed)
    assert not standalone.ed25519_verify(key, said + b"\x00", signed)
    for place in (0, 31, 32, 63):
        assert not standalone.ed25519_verify(key, said, bytes(b ^ (i == place) for i, b in enumerate(signed)))


@settings(max_examples=60, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=300), flip=st.integers(0, 64 * 8 - 1))
def test_ed25519_says_what_cryptography_says(seed: bytes, message: bytes, flip: int) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    assert standalone.ed25519_verify(public, message, signature)
    altered = bytearray(signature)
    altered[flip // 8] ^= 1 << flip % 8
    with pytest.raises(InvalidSignature):
        key.public_key().verify(bytes(altered), message)
    assert not standalone.ed25519_verify(public, message, bytes(altered))


@settings(max_examples=60, deadline=None)
@given(public=st.binary(min_size=32, max_size=32), signature=st.binary(min_size=64, max_size=64))
def test_bytes_that_nobody_signed_are_no_signature(public: bytes, signature: bytes) -> None:
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, b"")
    assert not standalone.ed25519_verify(public, b"", signature)


def test_a_second_spelling_of_a_signature_is_refused() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    signature = key.sign(b"once")
    raised = int.from_bytes(signature[32:], "little") + standalone.ORDER
    assert not standalone.ed25519_verify(
        key.public_key().public_bytes_raw(), b"once", signature[:32] + raised.to_bytes(32, "little")
    )


@pytest.mark.parametrize("y", [standalone.P, standalone.P + 1, 2**255 - 1])
def test_a_point_has_one_spelling(y: int) -> None:
    assert not standalone.ed25519_verify(y.to_bytes(32, "little"), b"", bytes(64))


@settings(max_examples=60, deadline=None)
@given(
    key=st.binary(min_size=32, max_size=32),
    nonce=st.binary(min_size=12, max_size=12),
    content=st.binary(max_size=200),
    bound=st.binary(max_size=60),
)
def test_what_aes_gcm_has_sealed_is_opened_and_nothing_else(
    key: bytes, nonce: bytes, content: bytes, bound: bytes
) -> None:
    sealed = AESGCM(key).encrypt(nonce, content, bound)
    assert standalone.aes_gcm_open(key, nonce, sealed, bound) == content
    assert standalone.aes_gcm_open(key, nonce, sealed, bound + b"\x00") is None
    for place in (0, len(sealed) // 2, len(sealed) - 1):
        altered = bytes(b ^ (i == place) for i, b in enumerate(sealed))
        assert standalone.aes_gcm_open(key, nonce, altered, bound) is None


@cache
def rsa_pair() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@settings(max_examples=30, deadline=None)
@given(message=st.binary(max_size=300), flip=st.integers(0, 255))
def test_rsa_says_what_cryptography_says(message: bytes, flip: int) -> None:
    private = rsa_pair()
    spki = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    key = standalone.rsa_key(spki)
    signature = private.sign(message, padding.PKCS1v15(), hashes.SHA256())
    assert standalone.rsa_verify(key, message, signature)
    assert not standalone.rsa_verify(key, message + b"\x00", signature)
    assert not standalone.rsa_verify(key, message, bytes(b ^ (i == flip) for i, b in enumerate(signature)))


# -- one file, nothing beside it


def run(data: bytes, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As an expert runs it: the file out of the archive, an interpreter that sees no installed package."""
    file, script = folder / "bundle.zip", folder / "verify.py"
    file.write_bytes(data)
    script.write_bytes(files()[VERIFIER])
    (folder / "log.vkey").write_text(vkey() + "\n")
    command = [sys.executable, "-I", "-S", "-B", str(script), str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=60)


def test_it_imports_only_the_standard_library() -> None:
    tree = ast.parse(SOURCE.read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_run_as_a_court_would_it_says_valid_and_what_it_leaves_out(tmp_path: Path) -> None:
    ran = run(whole(), tmp_path, "--vkey", "log.vkey")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "VALID: consent to newsletter/email" in ran.stdout
    assert all(f"\n {step}  " in "\n" + ran.stdout for step in range(1, 10))
    assert all(text in ran.stdout for text in standalone.LEFT_OUT)


def test_a_flipped_bit_is_named_with_its_step(tmp_path: Path) -> None:
    altered = bytearray(whole())
    altered[len(altered) // 2] ^= 1
    ran = run(bytes(altered), tmp_path, "--vkey", "log.vkey")
    assert ran.returncode == 1
    assert "INVALID: step 1" in ran.stdout


def test_without_a_key_it_does_not_say_valid(tmp_path: Path) -> None:
    ran = run(whole(), tmp_path)
    assert ran.returncode == 1
    assert "VALID" not in ran.stdout
    assert vkey() in ran.stdout


@pytest.mark.parametrize("arguments", [("--vkey",), ("--vkey", "no-such-file"), ("--help",)])
def test_a_call_that_makes_no_sense_judges_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run(whole(), tmp_path, *arguments).returncode == 2


def test_the_full_verifier_knows_the_file_it_packs(tmp_path: Path) -> None:
    assert hashlib.sha256(SOURCE.read_bytes()).hexdigest() == KNOWN_VERIFIERS[-1], "list the hash of the new verify.py"
    assert len(set(KNOWN_VERIFIERS)) == len(KNOWN_VERIFIERS)
    report = verify(whole(), vkey())
    assert report is not None
    assert "verify.py is one that this program knows" in [finding.text for finding in report.findings]


def test_of_another_verify_py_the_full_verifier_says_not_to_run_it() -> None:
    report = verify(mended(files() | {VERIFIER: b"print('VALID')\n"}), vkey())
    assert report is not None
    assert "verify.py is none that this program knows: do not run it" in [finding.text for finding in report.findings]


# -- it judges as the full verifier does


def verdicts(data: bytes) -> tuple[str, str]:
    """The step at which each of the two refuses a bundle, or nothing."""
    ours = standalones = ""
    try:
        verify(data, vkey())
    except Invalid as error:
        ours = error.step
    try:
        standalone.check(data, vkey())
    except standalone.Invalid as error:
        standalones = str(error.step or "unexpected")
    return ours, standalones


def test_both_accept_every_kind_of_true_story() -> None:
    material = story().material
    kept = [one for one in material.keys if one["compartment"] != "attachment/0"]
    for made in (
        story(),
        OptIn(withdrawn=False).play(),
        OptIn(verified=False).play(),
        OptIn(to="jane.doe@EXAMPLE.org").play(),
    ):
        data = mended(files_of(made.material))
        checked = standalone.check(data, made.world.signer.vkey)
        report = verify(data, made.world.signer.vkey)
        assert report is not None
        shown = [re.findall(r"with grade (\w)", one) for one in (checked.conclusion, report.conclusion)]
        assert shown[0] == shown[1] != []
    for missing in (
        replace(material, attachments={}, keys=kept),
        replace(material, notice_keys={"keys": []}),
        replace(material, dkim_keys={"keys": []}),
    ):
        assert verdicts(bundle(missing)) == ("", "")


def test_both_accept_and_hold_the_effects_of_a_withdrawal_against_the_bundle() -> None:
    said = {"system": "marketing", "applied_at": "2026-11-22T13:03:00.000Z", "in_transmission": []}
    withdrawal = story().world.statements[story().indexes["withdrawn"]].id
    effects = {withdrawal: [said]}
    made = files_of(replace(story().material, effects=effects))
    name = named(made, "effects/")
    assert verdicts(mended(made)) == ("", "")
    assert verdicts(mended(with_json(made, name, lambda one: {**one, "systems": []}))) == ("", "")
    assert verdicts(mended(with_json(made, name, lambda one: {**one, "statement": story().given}))) == ("9", "9")
    assert verdicts(mended({**files(), "effects/1.json": made[name]})) == ("9", "9")


def test_both_refuse_at_the_same_step_what_a_forger_has_mended() -> None:
    forged = [
        ("1", mended(files(), format="consent-ledger/evidence/2")),
        ("2", mended(files(), checkpoint_size="4")),
        ("3", mended(with_json(files(), "statements/6.json", lambda one: {**one, "pin": "0" * 64}))),
        ("4", mended(with_json(files(), "statements/6.json", lambda one: {**one, "overtaken": True}))),
        ("4", mended(files(), purpose="newsletter-clicks")),
        ("5", mended(with_json(files(), "keys.json", lambda keys: [{**keys[0], "key": "A" * 43}, *keys[1:]]))),
        ("5", mended({**files(), "opened/11-evidence.json": b"{}"})),
        ("6", mended({**files(), f"notices/{'0' * 64}.txt": b"# Other words\n"})),
        ("7", mended(files_of(OptIn(to="somebody.else@example.org").play().material))),
        ("7", mended(files_of(OptIn(token_in_mail="A" * 43).play().material))),
    ]
    assert [verdicts(data) for _, data in forged] == [(step, step) for step, _ in forged]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_mended_flip_is_judged_otherwise(data: st.DataObject) -> None:
    # Records are left to the full verifier; of a manifest nothing but its one form is mended.
    name = data.draw(st.sampled_from(sorted(one for one in files() if one[:8] != "records/" and one != MANIFEST)))
    content = bytearray(files()[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    ours, its = verdicts(mended({**files(), name: bytes(content)}))
    assert bool(ours) == bool(its), (name, ours, its)


def test_a_dkim_key_of_somebody_else_is_refused_by_both() -> None:
    def swap(keys: dict[str, list[dict[str, str]]]) -> None:
        spki = (
            rsa_pair()
            .public_key()
            .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        keys["keys"][0]["record"] = "v=DKIM1; k=rsa; p=" + base64.b64encode(spki).decode()

    assert verdicts(mended(with_json(files(), DKIM_KEYS, swap))) == ("7", "7")


@pytest.mark.parametrize("record", ["v=DKIM2; k=rsa; p=", "k=dsa; p=", "v=DKIM1; k=rsa; p="])
def test_a_dkim_record_that_is_no_rsa_key_is_refused_by_both(record: str) -> None:
    def spoil(keys: dict[str, list[dict[str, str]]]) -> None:
        keys["keys"][0]["record"] = record

    assert verdicts(mended(with_json(files(), DKIM_KEYS, spoil))) == ("7", "7")
