"""Key-encryption keys that come and go while processes run: found when they are needed, gone when taken away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.ledger.keks import Keks
from services.ledger.log.secrets import KeyEncryptionKeyMissing, unwrap, wrap
from services.subjects.keys import KeyEncryption
from shared.errors import Corrupt
from shared.secrets import Secrets, add_kek

SUBJECT = "0.01a2008d-7400-7abc-9def-0123456789ab"
K = bytes(range(32))
NONCE = bytes(12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for owner in ("ledger", "subjects"):
        assert add_kek(tmp_path, owner, os.urandom) == 1
    return tmp_path


def test_a_key_that_came_after_the_start_is_read_when_something_hangs_on_it(folder: Path) -> None:
    keks = Keks(Secrets(folder).keks)
    assert add_kek(folder, "ledger", os.urandom) == 2
    newer = Keks(Secrets(folder).keks)
    wrapped = wrap(2, newer[2], SUBJECT, K, NONCE)
    assert list(keks) == [1]
    assert unwrap(keks, SUBJECT, wrapped) == K
    assert list(keks) == [1, 2]
    assert len(keks) == 2


def test_a_key_that_was_taken_away_opens_nothing_from_the_next_look_on(folder: Path) -> None:
    keks = Keks(Secrets(folder).keks)
    wrapped = wrap(1, keks[1], SUBJECT, K, NONCE)
    add_kek(folder, "ledger", os.urandom)
    Secrets(folder).kek_files("ledger")[1].unlink()
    keks.read_again()
    with pytest.raises(KeyEncryptionKeyMissing):
        unwrap(keks, SUBJECT, wrapped)


def test_the_two_owners_keys_are_numbered_apart(folder: Path) -> None:
    assert add_kek(folder, "subjects", os.urandom) == 2
    secrets = Secrets(folder)
    assert {owner: list(secrets.kek_files(owner)) for owner in ("ledger", "subjects")} == {
        "ledger": [1],
        "subjects": [1, 2],
    }
    assert secrets.kek_files("subjects")[2].stat().st_mode & 0o777 == 0o600


def test_subjects_wraps_with_the_newest_from_the_next_look_on(folder: Path) -> None:
    secrets = Secrets(folder)
    encryption = KeyEncryption(lambda: secrets.keks("subjects"), os.urandom)
    old = encryption.wrap(SUBJECT, "content", K)
    assert not encryption.read_again()
    add_kek(folder, "subjects", os.urandom)
    assert encryption.read_again()
    new = encryption.wrap(SUBJECT, "content", K)
    assert (old[:4], new[:4]) == (b"\0\0\0\1", b"\0\0\0\2")
    assert encryption.unwrap(SUBJECT, "content", old) == encryption.unwrap(SUBJECT, "content", new) == K
    secrets.kek_files("subjects")[1].unlink()
    encryption.read_again()
    assert encryption.unwrap(SUBJECT, "content", new) == K
    with pytest.raises(Corrupt):
        encryption.unwrap(SUBJECT, "content", old)
