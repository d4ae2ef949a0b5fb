"""The register in a few lines per activity, for a terminal."""

from collections.abc import Iterator

from shared.register.register import Activity, Register


def show(register: Register) -> str:
    """Return a plain-text overview: activities, what they collect and decide, why, for how long, who may state what."""
    lines = [f"register {register.version}", f"languages {', '.join(register.languages)}"]
    for activity in register.activities.values():
        lines.extend(_activity(activity))
    return "\n".join(lines) + "\n"


def _activity(activity: Activity) -> Iterator[str]:
    yield ""
    yield f"{activity.id}  ({activity.controller.name}; policy of {activity.policy.status}, {activity.policy.section})"
    for field in activity.fields:
        yield f"  field      {field.id}{' (mandatory)' if field.mandatory else ''}  {field.dpv}"
    for purpose in activity.purposes:
        yield f"  asks       {purpose.key}  {purpose.dpv}  {purpose.legal_basis}  least grade {purpose.least_grade}"
    for unasked in activity.unasked_purposes:
        yield f"  unasked    {unasked.key}  {unasked.dpv}  {unasked.legal_basis}"
    for rule in activity.retention.values():
        length = rule.period or rule.review or "at once"
        end = " to the end of the year" if rule.until == "end-of-year" else ""
        yield f"  keeps      {rule.id}  {length}{end}, then {rule.then}"
    for language, notice in activity.notices.items():
        yield f"  notice     {language} {notice.version}  {notice.hash}"
    for source, types in activity.statements.items():
        yield f"  may state  {source}: {', '.join(sorted(types))}"
