"""Files that somebody is shown: a ciphertext that opens twice, a checkpoint by a key that was retired."""

from __future__ import annotations

import os
from time import perf_counter

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB

from services.ledger.reader.compartment import open_compartment
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import Signer
from services.ledger.reader.policy import parse_log_keys
from services.ledger.reader.verify import verify
from services.subjects.domain import key_hash
from shared.events import parse
from tests.attacks.declared import Attack, Check, Needs, Notices, tries
from tests.attacks.liar import Liar
from tests.attacks.looking import hold, refuse, said
from tests.attacks.site import ANNA, Site
from tests.integration.ledger.world import given, new_id
from tests.opt_in import OptIn
from tests.unit.proof.forging import report_of

_BLOCK = 16
_POLYNOMIAL = 0xE1 << 120


def _multiplied(left: int, right: int) -> int:
    """Two elements of GF(2^128) as GCM writes them: the first bit is the lowest power."""
    product = 0
    for place in range(127, -1, -1):
        if right >> place & 1:
            product ^= left
        left = left >> 1 ^ (_POLYNOMIAL if left & 1 else 0)
    return product


def _power(base: int, exponent: int) -> int:
    result = 1 << 127
    while exponent:
        if exponent & 1:
            result = _multiplied(result, base)
        base, exponent = _multiplied(base, base), exponent >> 1
    return result


def _encrypted(key: bytes, block: bytes) -> int:
    return int.from_bytes(Cipher(AES(key), ECB()).encryptor().update(block), "big")  # noqa: S305 - GCM is made of it


def opens_twice(keys: tuple[bytes, bytes], nonce: bytes, bound: bytes, texts: tuple[bytes, bytes]) -> bytes:
    """One ciphertext and tag that AES-GCM accepts under both keys: the first shows the first text at the beginning,
    the second the second at the end. One block between them is solved for, so that the tags agree."""
    width = -(-max(map(len, texts)) // _BLOCK) * _BLOCK
    first, second = (text.ljust(width) for text in texts)
    size = 2 * width + _BLOCK
    streams = [Cipher(AES(key), CTR(nonce + (2).to_bytes(4, "big"))).encryptor().update(bytes(size)) for key in keys]
    head = bytes(a ^ b for a, b in zip(first, streams[0][:width], strict=True))
    tail = bytes(a ^ b for a, b in zip(second, streams[1][width + _BLOCK :], strict=True))
    padded = bound + bytes(-len(bound) % _BLOCK)
    lengths = (8 * len(bound)).to_bytes(8, "big") + (8 * size).to_bytes(8, "big")
    blocks = padded + head + bytes(_BLOCK) + tail + lengths
    free = width // _BLOCK + 1  # blocks from the free one's end to the end, the lengths among them
    sums, powers = [], []
    for key in keys:
        hashing = _encrypted(key, bytes(_BLOCK))
        total = 0
        for at in range(0, len(blocks), _BLOCK):
            total = _multiplied(total ^ int.from_bytes(blocks[at : at + _BLOCK], "big"), hashing)
        sums.append(total ^ _encrypted(key, nonce + (1).to_bytes(4, "big")))
        powers.append(_power(hashing, free + 1))
    inverse = _power(powers[0] ^ powers[1], 2**128 - 2)
    solved = _multiplied(sums[0] ^ sums[1], inverse)
    tag = sums[0] ^ _multiplied(solved, powers[0])
    return nonce + head + solved.to_bytes(_BLOCK, "big") + tail + tag.to_bytes(_BLOCK, "big")


@tries(
    Attack(
        "one ciphertext, two addresses",
        "an archived mail that AES-GCM opens under two keys, to Anna's address and to Ben's",
        (Needs.SOURCE_KEY, Needs.FILE),
        {Check.VERIFIER: "INVALID: step 5: the key of attachment/0 is not the one the statement commits to"},
    )
)
async def test_a_ciphertext_that_opens_twice_has_one_key_that_counts(notices: Notices) -> None:
    keys, statement = (os.urandom(32), os.urandom(32)), new_id()
    bound = b"\x00".join([b"consent-ledger/v1/seal", ANNA.encode(), b"attachment/0", statement.encode()])
    sealed = opens_twice(keys, os.urandom(12), bound, (b"To: anna@example.org\r\n", b"To: ben@example.org\r\n"))
    # The attack itself works: both keys open it, and nothing in AES-GCM says which is the right one.
    shown = [AESGCM(key).decrypt(sealed[:12], sealed[12:], bound) for key in keys]
    assert b"anna@example.org" in shown[0]
    assert b"ben@example.org" in shown[1]
    committed = key_hash(keys[0])
    assert open_compartment("5", keys[0], committed, sealed, ANNA, "attachment/0", statement) == shown[0]
    began = perf_counter()
    try:
        open_compartment("5", keys[1], committed, sealed, ANNA, "attachment/0", statement)
    except Invalid as error:
        notices.by(Check.VERIFIER, said(error), perf_counter() - began)


@tries(
    Attack(
        "speak in another source's name",
        "a consent nobody gave, with the source's own key, shown as evidence",
        (Needs.KAFKA, Needs.SOURCE_KEY),
        {Check.VERIFIER: "step 7: the request that the consent at index 13 answers is not in this bundle"},
        blind="the ledger, which records it as the source's word: a permit may rest on it until a person has looked at "
        "the incident. The thief lacks what makes evidence, the request, the served-notice token, the archived mail: "
        "it is of grade C, and every verifier says that it rests on the source's word alone",
    )
)
def test_a_consent_that_a_thief_of_the_sources_key_states_is_no_evidence(notices: Notices) -> None:
    opt_in = OptIn().play()
    opt_in.world.record([parse(given(opt_in.world.subject, opt_in.world.later(60)))])
    began = perf_counter()
    report = report_of(opt_in)
    seconds = perf_counter() - began
    assert (
        "has grade C, and that the holder of the address gave it is the word of newsletter alone" in report.conclusion
    )
    missing = next(one for one in report.findings if "at index 13 answers" in one.text)
    notices.by(Check.VERIFIER, f"step {missing.step}: {missing.text}", seconds)


@tries(
    Attack(
        "re-sign with a stolen old key",
        "a longer log, after the key was retired",
        (Needs.LOG_KEY,),
        {Check.VERIFIER: "retired"},
        blind="whoever was given the old key alone, without the list of keys that retires it",
    )
)
async def test_a_retired_key_signs_nothing_new(site: Site, notices: Notices) -> None:
    thief = await Liar.of(site)
    new = Signer(site.origin, site.world.secrets.fresh_key(0))
    keys = parse_log_keys(f"{new.vkey}\n{site.vkey} until 311\n".encode())
    old = site.kept["checkpoint 3"]
    assert verify(old, keys) is not None, "what it signed in its time is as good as ever"
    thief.say(given(ANNA))
    refuse(notices, Check.VERIFIER, keys, thief.note().encode())


@tries(
    Attack(
        "re-sign with a stolen old key",
        "a log of a size it had signed in its time, with another history",
        (Needs.LOG_KEY, Needs.SECRETS),
        {Check.HELD: "a fork: the log's key has signed two different histories of 311 leaves"},
        blind="whoever holds nothing of that time. A cosignature of then is what such a checkpoint does not get",
    )
)
async def test_a_retired_key_that_signs_its_own_time_anew_contradicts_it(site: Site, notices: Notices) -> None:
    thief = await Liar.of(site, 308)
    thief.say(given(ANNA), given(ANNA))
    new = Signer(site.origin, site.world.secrets.fresh_key(0))
    keys = parse_log_keys(f"{new.vkey}\n{site.vkey} until 311\n".encode())
    hold(notices, Check.HELD, keys, site.kept["checkpoint 3"], thief.note().encode())
