"""The service as it is wired: from settings and secret files to an answer."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from services.subjects.main import open as open_subjects
from shared.secrets import Secrets, create_secrets
from shared.settings import Settings
from tests.parts import Database


async def test_it_seals_while_kafka_and_the_ledger_are_away_and_says_that_it_does_not_follow(
    database: Database, tmp_path: Path
) -> None:
    create_secrets(tmp_path, os.urandom, ["newsletter", "subjects"], ["newsletter", "subjects"], shards=1)
    nowhere = "127.0.0.1:9"
    settings = Settings(
        database=database.dsn("{role}").replace("%7Brole%7D", "{role}"),
        kafka=nowhere,
        ledger_url=f"http://{nowhere}",
        secrets_dir=tmp_path,
    )
    running = await open_subjects(settings)
    assert running.app is not None
    assert set(running.tasks) == {"subjects.follower", "subjects.relay", "subjects.rotation"}
    headers = {"Authorization": f"Bearer {Secrets(tmp_path).credential('newsletter')}"}
    body = {"controller": "controller", "identifier": {"kind": "email", "value": "ada@example.org"}, "items": []}
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(running.app), base_url="http://localhost") as client:
            answer = await client.post("/subjects/seal", json=body, headers=headers)
            assert answer.status_code == 200
            ready = await client.get("/subjects/health/ready")
            assert ready.status_code == 503
            assert ready.json()["checks"]["postgresql"] is True
            assert ready.json()["checks"]["follower"] is not True
            assert (await client.get("/subjects/health/live")).status_code == 200
    finally:
        await running.close()
