"""A mail server that is down, or hangs up in the middle, only delays a mail."""

from __future__ import annotations

import contextlib
import email
import email.policy
import socket
import threading
from typing import TYPE_CHECKING

from infra.local.screen import until
from tests.journeys.people import granted, types

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.local.installation import Installation
    from tests.journeys.people import World


class HangsUp:
    """Takes a mail to its last line and then hangs up, so that the sender cannot know what became of it."""

    def __init__(self, port: int) -> None:
        self.taken: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection, contextlib.suppress(OSError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        connection.sendall(b"220 localhost\r\n")
        while line := lines.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                connection.sendall(b"250-localhost\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n")
            elif verb == b"DATA":
                connection.sendall(b"354 go on\r\n")
                raw = b"".join(iter(lines.readline, b".\r\n"))
                self.taken.append(raw.replace(b"\r\n..", b"\r\n."))
                return
            else:
                connection.sendall(b"250 ok\r\n")

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@contextlib.contextmanager
def without_inbox(installation: Installation) -> Iterator[int]:
    """The web process without the demo's mail server; the port where that would listen."""
    _restart_web(installation, demo="false")
    try:
        yield installation._smtp_port
    finally:
        _restart_web(installation, demo="true")


def _restart_web(installation: Installation, demo: str) -> None:
    installation.processes["web"].stop()
    installation._extra["demo"] = demo
    installation.start_process("web")
    for service in ("subjects", "ledger", "newsletter", "marketing"):
        installation._wait(f"{installation.base_url}/{service}/health/ready", "web")


def test_a_mail_outlives_a_mail_server_that_is_down(world: World) -> None:
    person = world.person()
    column = "select {} from newsletter.mail where ended_at is null order by created_at desc limit 1"
    with without_inbox(world.installation) as port:
        for _ in range(3):
            assert person.send_form(person.open_form()).status == 200
        until("an attempt that met nobody", lambda: world.sql(column.format("attempts")) == "1")
        mail_id = world.sql(column.format("id"))
        server = HangsUp(port)
        until("an attempt that was cut off", lambda: server.taken)
        server.close()
        cut_off = server.taken[0]
    world.sql(f"update newsletter.mail set next_attempt_at = clock_timestamp() where id = '{mail_id}'")
    world.sql("notify newsletter_mail")
    mail = person.mail(1)
    assert mail.message_id == f"<{mail_id}@example.org>"
    assert str(email.message_from_bytes(cut_off, policy=email.policy.default)["Message-ID"]) == mail.message_id
    assert cut_off == mail.raw
    assert person.count_mails() == 1
    subject = person.subject(mail)
    person.quiet(subject)
    assert types(world.history(subject)).count("ConsentRequested") == 3
    [sent] = [entry for entry in world.history(subject) if entry.type == "MessageSent"]
    assert (sent.data["outcome"], sent.data["delivery"]) == ("accepted", "at-least-once")
    assert sent.data["attempts"] >= 3
    assert person.press_confirm(mail.confirm_link).status == 200
    granted(world, subject)
