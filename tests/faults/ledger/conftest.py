"""The same ledger on real parts as the integration tests have."""

from tests.integration.ledger.conftest import world

__all__ = ["world"]
