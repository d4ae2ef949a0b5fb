"""The Grafana dashboard, laid out along the stages of ARCHITECTURE.md: `python -m infra.observability.dashboard`.

It writes dashboard.json beside this file, which is what is imported into Grafana; a test holds it to be current.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    VariableHide,
)

FILE: Final = Path(__file__).with_name("dashboard.json")
WIDTH: Final = 24
HEIGHT: Final = 7
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
SECONDS, PER_SECOND, NUMBER, YES_OR_NO = "s", "ops", "short", "bool_yes_no"


@dataclass(frozen=True)
class Graph:
    """One panel: what it shows, in words for somebody who has never seen it, and from which figures."""

    title: str
    says: str
    unit: str
    queries: Sequence[tuple[str, str]]
    """PromQL and legend."""
    worry_from: float | None = None


@dataclass(frozen=True)
class Row:
    """One stretch of the way from a form to a mail."""

    title: str
    graphs: Sequence[Graph]


OVERVIEW: Final = (
    Graph(
        "Alerts firing",
        "0 is what it should be. Each alert has its section in docs/runbook.md.",
        NUMBER,
        [('count(ALERTS{alertstate="firing"}) or vector(0)', "")],
        1,
    ),
    Graph(
        "Oldest word not recorded",
        "How long ago somebody said something that is not sealed yet. Below a second, usually.",
        SECONDS,
        [("max(newsletter_outbox_oldest_unsealed_seconds or marketing_outbox_oldest_unsealed_seconds)", "")],
        30,
    ),
    Graph(
        "Oldest mail waiting",
        "How long somebody has been waiting for a confirmation or welcome mail.",
        SECONDS,
        [('max(newsletter_mail_oldest_seconds{state="waiting"})', "")],
        300,
    ),
    Graph(
        "Oldest mark",
        "Permits are refused once it is older than five seconds: somebody might have withdrawn unheard.",
        SECONDS,
        [("max(ledger_mark_age_seconds)", "")],
        5,
    ),
    Graph(
        "Incidents",
        "`consent-ledger incidents list` shows them. A person has to look.",
        NUMBER,
        [("sum(ledger_open_incidents) or vector(0)", "")],
        1,
    ),
    Graph(
        "Rejects",
        "`consent-ledger rejected list` shows them. A person has to look.",
        NUMBER,
        [("sum(ledger_unhandled_rejects) or vector(0)", "")],
        1,
    ),
)

ROWS: Final = (
    Row(
        "Collect: a form is served, it comes back, a mail is sent, a button is pressed (stages 1 to 4, and 14)",
        [
            Graph(
                "What people do",
                "Sign-ups, confirmations and withdrawals a second.",
                PER_SECOND,
                [("sum by (act) (rate(newsletter_acts_total[5m]))", "{{act}}")],
            ),
            Graph(
                "Pages that failed",
                "Answers with 5xx: what people sent was not kept, and they were told so.",
                PER_SECOND,
                [
                    (
                        'sum by (route, status) (rate(newsletter_http_request_seconds_count{status=~"5.."}[5m]))',
                        "{{status}} {{route}}",
                    )
                ],
            ),
            Graph(
                "Refused by a limit, and links that open nothing",
                "Many at once: somebody tries addresses or links. People behind the same network are refused, too.",
                PER_SECOND,
                [
                    ("sum by (limit) (rate(newsletter_limited_total[5m]))", "too many {{limit}}"),
                    ("sum by (link) (rate(newsletter_unknown_links_total[5m]))", "opens nothing: {{link}}"),
                ],
            ),
            Graph(
                "Mails waiting",
                "waiting: to be sent. held: a welcome that waits until the consent is sealed.",
                NUMBER,
                [("max by (state) (newsletter_mails_waiting)", "{{state}}")],
            ),
            Graph(
                "Mails at an end, or postponed",
                "Each attempt by what became of it; a postponed one is tried again.",
                PER_SECOND,
                [
                    ("sum by (kind, outcome) (rate(newsletter_mails_ended_total[5m]))", "{{kind}}: {{outcome}}"),
                    ("sum by (reason) (rate(newsletter_mails_postponed_total[5m]))", "postponed: {{reason}}"),
                ],
            ),
            Graph(
                "Withdrawals by answer",
                "stopped: marketing had stopped when we answered. accepted: recorded, but it was still to stop.",
                PER_SECOND,
                [("sum by (answer) (rate(newsletter_withdrawals_total[5m]))", "{{answer}}")],
            ),
            Graph(
                "Ends that are overdue",
                "Sign-ups that nobody confirmed, past the time at which they are to be ended or deleted.",
                SECONDS,
                [("max by (duty) (newsletter_sweep_overdue_seconds)", "{{duty}}")],
                3600,
            ),
        ],
    ),
    Row(
        "On the way: statements leave the outbox of their service (stage 5)",
        [
            Graph(
                "Oldest statement not sealed",
                "From the commit behind a thank-you to the signature.",
                SECONDS,
                [
                    ("max by (shard) (newsletter_outbox_oldest_unsealed_seconds)", "newsletter, shard {{shard}}"),
                    ("max by (shard) (marketing_outbox_oldest_unsealed_seconds)", "marketing, shard {{shard}}"),
                ],
                30,
            ),
            Graph(
                "Statements not sealed",
                "How many are on their way.",
                NUMBER,
                [
                    ("max by (shard) (newsletter_outbox_unsealed)", "newsletter, shard {{shard}}"),
                    ("max by (shard) (marketing_outbox_unsealed)", "marketing, shard {{shard}}"),
                ],
            ),
            Graph(
                "Sent, and sent again",
                "Again: not sealed within ten seconds.",
                PER_SECOND,
                [
                    ("sum(rate(newsletter_outbox_sent_total[5m]))", "newsletter"),
                    ("sum(rate(marketing_outbox_sent_total[5m]))", "marketing"),
                    ("sum(rate(newsletter_outbox_resent_total[5m]))", "newsletter, again"),
                    ("sum(rate(marketing_outbox_resent_total[5m]))", "marketing, again"),
                ],
            ),
        ],
    ),
    Row(
        "Record: check, append, seal, publish (stages 6 to 10)",
        [
            Graph(
                "Statements appended",
                "Per second, with what was dropped as an exact repetition.",
                PER_SECOND,
                [
                    ("sum by (shard) (rate(ledger_append_events_total[5m]))", "shard {{shard}}"),
                    ("sum by (shard) (rate(ledger_append_duplicates_total[5m]))", "shard {{shard}}, repeated"),
                ],
            ),
            Graph(
                "Messages rejected",
                "By reason. Each kind waits in a table until a person has dealt with it.",
                PER_SECOND,
                [("sum by (reason) (rate(ledger_append_rejected_total[5m]))", "{{reason}}")],
            ),
            Graph(
                "Time to append a batch",
                "One SQL statement, sent to committed.",
                SECONDS,
                [
                    ("histogram_quantile(0.5, sum by (le) (rate(ledger_append_append_seconds_bucket[5m])))", "half"),
                    ("histogram_quantile(0.99, sum by (le) (rate(ledger_append_append_seconds_bucket[5m])))", "99 %"),
                ],
            ),
            Graph(
                "Leaves between two stages",
                "Appended and not yet signed; signed and not yet published.",
                NUMBER,
                [
                    (
                        (
                            'max by (shard) (ledger_log_leaves{stage="appended"})'
                            ' - max by (shard) (ledger_log_leaves{stage="sealed"})'
                        ),
                        "to be signed, shard {{shard}}",
                    ),
                    (
                        (
                            'max by (shard) (ledger_log_leaves{stage="sealed"})'
                            ' - max by (shard) (ledger_log_leaves{stage="published"})'
                        ),
                        "to be published, shard {{shard}}",
                    ),
                ],
            ),
            Graph(
                "How fresh the signer's word is",
                "It repeats every two seconds that the newest checkpoint is the newest; and the oldest unsigned leaf.",
                SECONDS,
                [
                    ("max by (shard) (ledger_fresh_seconds)", "last word, shard {{shard}}"),
                    ("max by (shard) (ledger_unsealed_seconds)", "oldest unsigned, shard {{shard}}"),
                ],
                15,
            ),
            Graph(
                "Marks of the sources",
                "Everything a source accepted before its mark is sealed. Two to four seconds old, usually.",
                SECONDS,
                [("max by (source, shard) (ledger_mark_age_seconds)", "{{source}}, shard {{shard}}")],
                5,
            ),
        ],
    ),
    Row(
        "Act: fold, permit, send, count (stages 11 to 13)",
        [
            Graph(
                "Time since everything was folded",
                "marketing knows who may be written to, subjects who is suppressed. About a second, usually.",
                SECONDS,
                [
                    ("max by (shard) (marketing_follower_stale_seconds)", "marketing, shard {{shard}}"),
                    ("max by (shard) (subjects_follower_stale_seconds)", "subjects, shard {{shard}}"),
                ],
                15,
            ),
            Graph(
                "Records not folded",
                "Grows while a follower is slower than the ledger, or is built anew.",
                NUMBER,
                [
                    ("max by (shard) (marketing_follower_behind)", "marketing, shard {{shard}}"),
                    ("max by (shard) (subjects_follower_behind)", "subjects, shard {{shard}}"),
                ],
            ),
            Graph(
                "Permits",
                "Granted, or refused and why. stale, behind, no-heartbeat, source-not-heard: we do not know, so no.",
                PER_SECOND,
                [("sum by (decision, reason) (rate(marketing_permits_total[5m]))", "{{decision}}: {{reason}}")],
            ),
            Graph(
                "Campaign mails",
                "At an end, by outcome; and attempts that came to nothing yet, by reason.",
                PER_SECOND,
                [
                    ("sum by (outcome) (rate(marketing_deliveries_total[5m]))", "{{outcome}}"),
                    ("sum by (reason) (rate(marketing_deliveries_postponed_total[5m]))", "postponed: {{reason}}"),
                ],
            ),
            Graph(
                "Campaign mails to go",
                "waiting: still to be sent. attempted: on the wire.",
                NUMBER,
                [("max by (state) (marketing_deliveries_waiting)", "{{state}}")],
            ),
            Graph(
                "Age of the audience page",
                "Only figures for people to look at: no permit asks them.",
                SECONDS,
                [("max by (shard) (marketing_audience_age_seconds)", "shard {{shard}}")],
                60,
            ),
        ],
    ),
    Row(
        "Prove: the check of the log, what is opened and disclosed (stage 15)",
        [
            Graph(
                "Wrong rows",
                "What the last check of the whole log named, and what the check behind the signer came by since.",
                NUMBER,
                [("max by (shard) (ledger_check_findings)", "shard {{shard}}")],
                1,
            ),
            Graph(
                "Time since the last check",
                "Of the whole log: some hours, or as long as it takes.",
                SECONDS,
                [("max by (shard) (ledger_check_age_seconds)", "shard {{shard}}")],
                8 * 86400,
            ),
            Graph(
                "How far the check is behind the signer",
                "Time since everything that was signed had been checked.",
                SECONDS,
                [("max by (shard) (ledger_check_behind_seconds)", "shard {{shard}}")],
                300,
            ),
            Graph(
                "Time since a witness cosigned",
                "One that cosigns does so once a minute at least, also when nothing happens.",
                SECONDS,
                [("max by (shard, witness) (ledger_witness_age_seconds)", "{{witness}}, shard {{shard}}")],
                3600,
            ),
            Graph(
                "Opened and disclosed",
                "How often subjects opened an address, and gave out a key for evidence.",
                PER_SECOND,
                [
                    ("sum by (scope, outcome) (rate(subjects_opened_total[5m]))", "{{scope}}: {{outcome}}"),
                    ("sum by (scope) (rate(subjects_disclosed_total[5m]))", "disclosed: {{scope}}"),
                ],
            ),
        ],
    ),
    Row(
        "Processes",
        [
            Graph(
                "Up",
                "Whether Prometheus gets an answer.",
                YES_OR_NO,
                [('min by (service) (up{job="consent-ledger"})', "{{service}}")],
            ),
            Graph(
                "Not ready",
                "Which check of which service's readiness is not fine.",
                NUMBER,
                [
                    (
                        (
                            "count by (service, check) ((newsletter_ready or subjects_ready or ledger_ready"
                            " or ledger_append_ready or ledger_seal_ready or marketing_ready or erasure_ready"
                            " or audience_ready) == 0)"
                        ),
                        "{{service}}: {{check}}",
                    )
                ],
            ),
            Graph(
                "Time to answer, 99 %",
                "Over all routes of a service; a question that waits on purpose (sealed, effects) counts, too.",
                SECONDS,
                [
                    (f"histogram_quantile(0.99, sum by (le) (rate({name}_http_request_seconds_bucket[5m])))", name)
                    for name in ("newsletter", "subjects", "ledger", "marketing", "erasure")
                ],
            ),
        ],
    ),
)


def _queries(graph: Graph) -> list[Builder[Dataquery]]:
    return [
        prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
        for number, (expression, legend) in enumerate(graph.queries)
    ]


def _thresholds(graph: Graph) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green")]
    if graph.worry_from is not None:
        steps.append(Threshold(value=graph.worry_from, color="red"))
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _stat(graph: Graph) -> stat.Panel:
    return (
        stat.Panel()
        .title(graph.title)
        .description(graph.says)
        .datasource(SOURCE)
        .unit(graph.unit)
        .thresholds(_thresholds(graph))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .color_mode(words.BigValueColorMode.BACKGROUND)
        .graph_mode(words.BigValueGraphMode.NONE)
        .targets(_queries(graph))
        .span(WIDTH // len(OVERVIEW))
        .height(4)
    )


def _series(graph: Graph) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(graph.title)
        .description(graph.says)
        .datasource(SOURCE)
        .unit(graph.unit)
        .min(0)
        .thresholds(_thresholds(graph))
        .legend(
            common.VizLegendOptions()
            .display_mode(words.LegendDisplayMode.LIST)
            .placement(words.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .targets(_queries(graph))
        .span(WIDTH // 3)
        .height(HEIGHT)
    )
    if graph.worry_from is not None:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(words.GraphTresholdsStyleMode.DASHED))
    return panel


def document() -> str:
    """The dashboard as Grafana imports it."""
    board = (
        dashboard.Dashboard("Consent Ledger: from a form to a mail")
        .uid("consent-ledger")
        .description("Read from top to bottom: the first row that is red is the one to look at; others follow from it.")
        .tags(["consent-ledger"])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .label("Prometheus")
            .type("prometheus")
            .hide(VariableHide.DONT_HIDE)
        )
    )
    ids = itertools.count(1)
    for graph in OVERVIEW:
        board = board.with_panel(_stat(graph).id(next(ids)))
    for row in ROWS:
        board = board.with_row(dashboard.Row(row.title).id(next(ids)))
        for graph in row.graphs:
            board = board.with_panel(_series(graph).id(next(ids)))
    content: Any = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(document(), "utf-8")
