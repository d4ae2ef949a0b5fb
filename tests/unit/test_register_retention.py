"""A retention rule and recorded facts give one date that can be explained."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.register import Activity, NotInRegister, Period, load


@pytest.fixture(scope="module")
def newsletter() -> Activity:
    return load().activity("newsletter")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_link_expires_before_the_request_is_purged(newsletter: Activity) -> None:
    asked = {"ConsentRequested": moment("2026-11-22T12:00:00")}

    assert newsletter.due("confirmation-link", asked) == moment("2026-11-24T12:00:00")
    assert newsletter.due("unconfirmed-request", asked) == moment("2026-12-06T12:00:00")
    period = newsletter.retention["confirmation-link"].period
    assert period is not None
    assert period.timedelta == timedelta(hours=48)


def test_the_proof_of_a_living_consent_has_no_end(newsletter: Activity) -> None:
    assert newsletter.due("evidence", {"ConsentGiven": moment("2026-01-01T00:00:00")}) is None


def test_the_proof_is_kept_three_years_from_the_end_of_the_year(newsletter: Activity) -> None:
    withdrawn = {"ConsentWithdrawn": moment("2026-03-05T10:00:00")}

    # Midnight at the end of 31 December 2029 in Germany.
    assert newsletter.due("evidence", withdrawn) == moment("2029-12-31T23:00:00")


def test_the_proof_counts_from_the_latest_of_withdrawal_and_use(newsletter: Activity) -> None:
    facts = {"ConsentWithdrawn": moment("2026-03-05T10:00:00"), "ConsentUsed": moment("2027-01-02T10:00:00")}

    assert newsletter.due("evidence", facts) == moment("2030-12-31T23:00:00")


def test_a_withdrawal_in_the_first_german_hour_of_a_year_counts_for_that_year(newsletter: Activity) -> None:
    before = {"ConsentWithdrawn": moment("2026-12-31T22:59:59")}
    after = {"ConsentWithdrawn": moment("2026-12-31T23:00:00")}

    assert newsletter.due("evidence", before) == moment("2029-12-31T23:00:00")
    assert newsletter.due("evidence", after) == moment("2030-12-31T23:00:00")


def test_what_ends_at_once_ends_with_the_withdrawal(newsletter: Activity) -> None:
    sent = moment("2026-03-01T08:00:00")
    withdrawn = moment("2026-03-05T10:00:00")

    assert newsletter.due("mailing-address", {"MessageSent": sent}) is None
    assert newsletter.due("mailing-address", {"ConsentWithdrawn": withdrawn}) == withdrawn
    assert newsletter.due("click-data", {"MessageSent": sent}) == moment("2027-03-01T08:00:00")
    assert newsletter.due("click-data", {"MessageSent": sent, "ConsentWithdrawn": withdrawn}) == withdrawn


def test_a_rule_without_an_end_gives_its_next_review(newsletter: Activity) -> None:
    withdrawn = {"ConsentWithdrawn": moment("2026-03-05T10:00:00")}

    assert newsletter.due("suppression", withdrawn) == moment("2027-03-05T10:00:00")


def test_an_unknown_rule_is_not_in_the_register(newsletter: Activity) -> None:
    with pytest.raises(NotInRegister):
        newsletter.due("forever", {})


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("PT48H", "2026-03-28T12:00:00", "2026-03-30T12:00:00"),
        ("P14D", "2026-12-25T00:00:00", "2027-01-08T00:00:00"),
        ("P1M", "2026-01-31T09:00:00", "2026-02-28T09:00:00"),
        ("P1M", "2028-01-31T09:00:00", "2028-02-29T09:00:00"),
        ("P1Y", "2028-02-29T09:00:00", "2029-02-28T09:00:00"),
        ("P4Y", "2028-02-29T09:00:00", "2032-02-29T09:00:00"),
        ("P1M", "2026-12-31T09:00:00", "2027-01-31T09:00:00"),
        ("P1Y2M3DT4H5M6S", "2026-01-01T00:00:00", "2027-03-04T04:05:06"),
    ],
)
def test_a_period_ends_by_the_calendar(period: str, start: str, end: str) -> None:
    assert Period.parse(period).after(moment(start)) == moment(end)


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "14D", "P-1D", "P1.5D", "P1DT", "PT0S", "P1H", "p1d", "P1W", "P٣D", 14]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"ISO 8601|nothing"):
        Period.parse(text)


def test_a_calendar_period_has_no_fixed_length() -> None:
    with pytest.raises(ValueError, match="depends on the calendar"):
        _ = Period.parse("P3Y").timedelta
