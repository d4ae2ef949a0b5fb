"""Kafka with users, rights and TLS: the whole product runs on it, and each service may do what it must, and no more."""

from __future__ import annotations

import os
import secrets
import ssl
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.local.installation import Installation
from infra.local.kafka import Kafka
from infra.local.postgres import Postgres
from infra.local.screen import until
from infra.local.state import LOCAL, free_slot
from shared import kafka_users, register
from shared.errors import Refused, Unavailable
from shared.kafka import Producer
from shared.kafka_login import Login
from shared.topics import RECORDED, STATED, ensure_topics
from tests.journeys.people import World, types

PREFIX: Final = "beside."  # topics of their own: what is written here is nothing the product should read
SOURCES: Final = tuple(register.load().sources)
USERS: Final = set(kafka_users.users(SOURCES))
NOT_AUTHORIZED: Final = 29
# The last: who may write to no topic at all is not even numbered as a producer.
DENIED: Final = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, ClusterAuthorizationFailedError)

pytestmark = pytest.mark.timeout(300)  # it starts an installation of its own


def certificate(folder: Path) -> tuple[Path, Path]:
    """A throw-away authority's certificate, and a broker's key with the certificate that it signed."""
    now, day = datetime.now(UTC), timedelta(days=1)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority of this test")])

    def build(name: x509.Name, public: Any) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public)
        number = x509.random_serial_number()
        return builder.serial_number(number).not_valid_before(now - day).not_valid_after(now + day)

    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    own = build(issuer, authority_key.public_key())
    own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), True).add_extension(usage, True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    signed = own.add_extension(identifier, False).sign(authority_key, hashes.SHA256())
    broker = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    for_broker = build(broker, key.public_key()).add_extension(names, False)
    for_broker = for_broker.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False
    )
    pem = serialization.Encoding.PEM
    believed, presented = folder / "authority.pem", folder / "broker.pem"
    believed.write_bytes(signed.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    presented.write_bytes(private + for_broker.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    return believed, presented


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """Everything as processes, on a Kafka where everybody has to log in over TLS."""
    with free_slot(LOCAL / "tests" / "kafka-users", "the tests of Kafka's users") as state:
        state.empty()
        believed, presented = certificate(state.folder)
        password = secrets.token_urlsafe(16)
        kafka = Kafka(state.folder, admin_password=password, certificates=(believed, presented))
        settings = {"kafka_authority": str(believed), "campaign_rate": "4"}
        with (
            kafka,
            Postgres(state.folder) as postgres,
            Installation(
                state.folder, kafka=kafka, postgres=postgres, settings=settings, kafka_admin=password
            ) as running,
        ):
            yield running


@pytest.fixture(scope="module")
async def beside(installation: Installation) -> Installation:
    """The same broker with topics that nobody's product uses."""
    settings = installation.settings()
    login = settings.kafka_login(kafka_users.ADMIN)
    await ensure_topics(settings.kafka, PREFIX, 1, login=login)
    await kafka_users.ensure_users(settings.kafka, login, PREFIX, SOURCES, {}, os.urandom)
    return installation


def login_of(installation: Installation, user: str) -> Login:
    return installation.settings().kafka_login(user)


async def who_may(installation: Installation, attempt: Callable[[Login], Awaitable[None]]) -> set[str]:
    """The users for whom this does not fail for want of a right."""
    allowed = set()
    for user in sorted(USERS):
        try:
            await attempt(login_of(installation, user))
        except DENIED:
            continue
        allowed.add(user)
    return allowed


def writes(installation: Installation, topic: str) -> Callable[[Login], Awaitable[None]]:
    async def attempt(login: Login) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=installation.kafka.bootstrap, enable_idempotence=True, **login.options()
        )
        try:
            await producer.start()
            await producer.send_and_wait(topic, b"one", partition=0)
        finally:
            await producer.stop()

    return attempt


def reads(installation: Installation, topic: str) -> Callable[[Login], Awaitable[None]]:
    async def attempt(login: Login) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=installation.kafka.bootstrap, **login.options())
        place = TopicPartition(topic, 0)
        try:
            await consumer.start()
            await consumer._client._wait_on_metadata(topic)  # a topic that must not be seen is waited for otherwise
            consumer.assign([place])
            consumer.seek(place, 0)
            assert await consumer.getone() is not None
        finally:
            await consumer.stop()

    return attempt


def joins(installation: Installation, topic: str, group: str) -> Callable[[Login], Awaitable[None]]:
    async def attempt(login: Login) -> None:
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=installation.kafka.bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            **login.options(),
        )
        try:
            await consumer.start()
            assert await consumer.getone() is not None
            await consumer.commit()
        finally:
            await consumer.stop()

    return attempt


def test_the_whole_product_runs_on_it(installation: Installation) -> None:
    world = World(installation)
    person = world.person()
    confirmation, welcome = person.subscribe()
    world.issue_is_out(world.begin_issue())
    person.one_click(welcome.way_out)
    subject = person.subject(confirmation)
    until("the withdrawal in the ledger", lambda: "ConsentWithdrawn" in types(world.history(subject)), 60)
    assert {"ConsentRequested", "ConsentGiven", "ConsentUsed", "MessageSent"} <= set(types(world.history(subject)))
    until("a refused permit", lambda: world.permit(subject)["decision"] == "refused", 60)


async def test_each_service_writes_and_reads_what_the_flow_needs_and_nothing_else(beside: Installation) -> None:
    assert {"newsletter", "marketing"} <= set(SOURCES)
    assert await who_may(beside, writes(beside, PREFIX + STATED)) == set(SOURCES)
    assert await who_may(beside, writes(beside, PREFIX + RECORDED)) == {"ledger-seal"}
    assert await who_may(beside, reads(beside, PREFIX + STATED)) == {"ledger-append"}
    assert await who_may(beside, reads(beside, PREFIX + RECORDED)) == {"subjects", "marketing", "audience"}


async def test_only_the_audience_has_a_group_and_only_its_own(beside: Installation) -> None:
    recorded = PREFIX + RECORDED
    await writes(beside, recorded)(login_of(beside, "ledger-seal"))
    assert await who_may(beside, joins(beside, recorded, f"{PREFIX}audience")) == {"audience"}
    assert await who_may(beside, joins(beside, recorded, f"{PREFIX}another")) == set()


async def test_nobody_makes_topics_but_the_audience_its_own(beside: Installation) -> None:
    async def make(user: str, topic: str) -> int:
        admin = AIOKafkaAdminClient(bootstrap_servers=beside.kafka.bootstrap, **login_of(beside, user).options())
        try:
            await admin.start()
            made = await admin.create_topics([NewTopic(topic, 1, 1)])
            return int(made.topic_errors[0][1])
        finally:
            await admin.close()

    assert {user: await make(user, f"{PREFIX}something") for user in USERS} == dict.fromkeys(USERS, NOT_AUTHORIZED)
    assert await make("audience", f"{PREFIX}audience-something") == 0
    assert await make("marketing", f"{PREFIX}audience-more") == NOT_AUTHORIZED


async def test_no_service_gives_itself_a_right(beside: Installation) -> None:
    for user in USERS:
        with pytest.raises(Refused):
            await kafka_users.ensure_users(
                beside.kafka.bootstrap, login_of(beside, user), PREFIX, SOURCES, {"newsletter": "mine"}, os.urandom
            )


async def test_nobody_gets_in_without_the_right_password_or_certificate(beside: Installation, tmp_path: Path) -> None:
    right = login_of(beside, "newsletter")
    stranger, _ = certificate(tmp_path)
    for wrong in (
        Login("newsletter", "wrong", right.authority),
        Login("nobody", right.password, right.authority),
        Login(authority=right.authority),
        Login("newsletter", right.password),
        Login("newsletter", right.password, stranger),
    ):
        producer = Producer(beside.kafka.bootstrap, wrong)
        with pytest.raises(Unavailable):
            await producer.start()
        await producer.stop()


async def test_a_new_password_replaces_the_old_one(beside: Installation) -> None:
    admin, old = login_of(beside, kafka_users.ADMIN), login_of(beside, "subjects")
    new = Login("subjects", "another", old.authority)
    recorded = PREFIX + RECORDED
    try:
        await kafka_users.ensure_users(
            beside.kafka.bootstrap, admin, PREFIX, SOURCES, {"subjects": "another"}, os.urandom
        )
        await writes(beside, recorded)(login_of(beside, "ledger-seal"))
        await reads(beside, recorded)(new)
        with pytest.raises(Unavailable):
            await Producer(beside.kafka.bootstrap, old).start()
    finally:
        await kafka_users.ensure_users(
            beside.kafka.bootstrap, admin, PREFIX, SOURCES, {"subjects": old.password}, os.urandom
        )


def test_a_login_shows_its_password_to_nobody_who_prints_it() -> None:
    assert "hidden" not in repr(Login("newsletter", "hidden"))
    assert Login("newsletter", "hidden").options()["security_protocol"] == "SASL_PLAINTEXT"
    assert Login().options() == {"security_protocol": "PLAINTEXT", "ssl_context": None}


def test_a_file_of_no_certificates_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ssl.SSLError):
        Login(authority=tmp_path / "empty.pem").options()
