"""Every subject is built and parsed here, and its tokens are escaped here.

A token keeps `[A-Za-z0-9_-]`; every other UTF-8 byte becomes `=XX`, which is legal in NATS
subjects, in KV keys and in durable names alike.

Whatever belongs to a project has its subject below `projects.<project>.`; the project `default` has none of these
tokens. `jobs.embed.normal` is a job of the project `default`, `projects.vision.jobs.embed.normal` one of `vision`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from accelerator_autopilot.contracts.errors import SubjectError
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT, is_project, job_reference

# A subject travels in one control line, of which nats-server takes 4,096 bytes before it closes the connection.
MOST_SUBJECT_BYTES = 1023
MOST_NAME_BYTES = 200
_MOST_PART_BYTES = 100
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")

FRAMES = "telemetry.frames.*"
EVENTS = "telemetry.events.*.*"
ALERTS = "alerts.*.*.*"
COMMANDS = "commands.>"
OUTCOMES = "outcomes.*"
RECOMMENDATIONS = "recommendations.*"
DECISIONS = "decisions.*"
SCALE_COMMANDS = "commands.scale.*"
DRAIN_COMMANDS = "commands.drain.*.*"
JOBS = "jobs.*.*"
JOBS_WITH_ID = "jobs.*.*.*"
JOBS_OF_BATCHES = "jobs.*.*.*.*"
WAITING = "waiting.>"
LATER = "later.>"
DUE = "due.>"
RESULTS = "results.*"
RESULTS_OF_BATCHES = "results.*.*"
ANY_RESULT = "results.>"
ANY_QUEUED_JOB = "jobs.>"
PROGRESS = "progress.>"
DEAD = "dead.*"
AUDIT = "audit.*"
CLUSTER = "cluster"
"""The node of alerts that are about no node: streams that fill up. Who finds them keeps them in the bucket."""
POISON = "poison.*"


_PROJECTS = "projects"


def in_project(project: str, subject: str) -> str:
    """A subject of the project `default` as one of another project."""
    return subject if project == DEFAULT_PROJECT else bounded(f"{_PROJECTS}.{token(project)}.{subject}")


def in_any_project(*wildcards: str) -> tuple[str, ...]:
    """Wildcards of the project `default`, followed by the same of every other."""
    return *wildcards, *(f"{_PROJECTS}.*.{wildcard}" for wildcard in wildcards)


def split_project(subject: str) -> tuple[str, str]:
    """Undo `in_project`: the project, and the subject within it."""
    if subject.startswith(f"{_PROJECTS}."):
        _, project, rest = [*subject.split(".", 2), ""][:3]
        return untoken(project), rest
    return DEFAULT_PROJECT, subject


def project_of(subject: str) -> str:
    """The project that a subject lies in; `default` where that is no project's name."""
    project, _ = split_project(subject)
    return project if is_project(project) else DEFAULT_PROJECT


def token(text: str) -> str:
    """Escape a name of 1 to 200 bytes into one subject token. Raises SubjectError for any other."""
    if not text:
        raise SubjectError("name", text, "a subject token cannot be empty")
    if _PLAIN.fullmatch(text):
        if len(text) > MOST_NAME_BYTES:
            raise SubjectError("name", text, f"must have at most {MOST_NAME_BYTES} bytes, has {len(text)}")
        return text
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise SubjectError("name", text, "must be valid UTF-8") from error
    if size > MOST_NAME_BYTES:
        raise SubjectError("name", text, f"must have at most {MOST_NAME_BYTES} bytes, has {size}")
    return "".join(c if _PLAIN.fullmatch(c) else "".join(f"={b:02X}" for b in c.encode()) for c in text)


def name_part(text: str) -> str:
    """A token for the names of consumers and files, which the server and file systems bound more tightly.

    A long one is cut and told apart by a digest.
    """
    escaped = token(text)
    if len(escaped) <= _MOST_PART_BYTES:
        return escaped
    return f"{escaped[: _MOST_PART_BYTES - 13]}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def bounded(subject: str) -> str:
    """The subject itself. Raises SubjectError when it is longer than a message may carry."""
    if len(subject) > MOST_SUBJECT_BYTES:
        raise SubjectError("subject", subject, f"must have at most {MOST_SUBJECT_BYTES} bytes: shorten its names")
    return subject


def untoken(escaped: str) -> str:
    """Undo `token`."""
    out = bytearray()
    position = 0
    for match in _ESCAPED.finditer(escaped):
        out += escaped[position : match.start()].encode() + bytes([int(match[1], 16)])
        position = match.end()
    return (out + escaped[position:].encode()).decode(errors="replace")


def frames(node: str) -> str:
    """Telemetry frames of one node."""
    return bounded(f"telemetry.frames.{token(node)}")


def event(node: str, device: str) -> str:
    """Events of one device."""
    return bounded(f"telemetry.events.{token(node)}.{token(device)}")


def alert(severity: str, node: str, device: str) -> str:
    """Alerts about one device."""
    return bounded(f"alerts.{token(severity)}.{token(node)}.{token(device)}")


def alert_key(node: str, device: str, kind: str) -> str:
    """Where KV `open_alerts` keeps the open alert of a kind."""
    return bounded(".".join(token(part) for part in (node, device, kind)))


def alerts_matching(severity: str, node: str) -> str:
    """Alerts of a severity and of a node; empty is any."""
    return bounded(f"alerts.{token(severity) if severity else '*'}.{token(node) if node else '*'}.*")


def alerts_of(node: str) -> str:
    """Alerts about any device of a node."""
    return bounded(f"alerts.*.{token(node)}.*")


def power_command(node: str, device: str) -> str:
    """Power commands to one device."""
    return bounded(f"commands.power.{token(node)}.{token(device)}")


def power_commands(node: str) -> str:
    """Power commands to any device of a node."""
    return bounded(f"commands.power.{token(node)}.*")


def scale_command(pool: str) -> str:
    """Scale commands to one pool."""
    return bounded(f"commands.scale.{token(pool)}")


def batch_command(pool: str) -> str:
    """Batch commands to one pool."""
    return bounded(f"commands.batch.{token(pool)}")


def drain_command(node: str, device: str) -> str:
    """Drain commands to one device."""
    return bounded(f"commands.drain.{token(node)}.{token(device)}")


def operator_drain_key(node: str, device: str) -> str:
    """Where KV `scheduler` keeps an operator's last drain command to one device."""
    return bounded(f"operator.{token(node)}.{token(device)}")


def drain_commands(node: str) -> str:
    """Drain commands to any device of a node."""
    return bounded(f"commands.drain.{token(node)}.*")


def outcome(command_id: str) -> str:
    """The outcome of one command."""
    return bounded(f"outcomes.{token(command_id)}")


def decision(decision_id: str) -> str:
    """A decision about a pool."""
    return bounded(f"decisions.{token(decision_id)}")


def recommendation(scope: str) -> str:
    """Recommendations about a pool or device."""
    return bounded(f"recommendations.{token(scope)}")


def job_tokens(job_id: str) -> str:
    """A job's id in a subject: a batch's job, `<batch>.<rest>`, takes two tokens, so that a batch can be asked for."""
    batch, dot, rest = job_id.partition(".")
    return f"{token(batch)}.{token(rest)}" if dot and batch and rest else token(job_id)


def job_id(tokens: Sequence[str]) -> str:
    """Undo `job_tokens`."""
    return ".".join(untoken(t) for t in tokens)


def job(kind: str, priority: str, job_id: str, project: str = DEFAULT_PROJECT) -> str:
    """One job; publishers without an id may leave the last token out."""
    return in_project(project, bounded(f"jobs.{token(kind)}.{token(priority)}.{job_tokens(job_id)}"))


def any_job(job_id: str, project: str = DEFAULT_PROJECT) -> str:
    """One job of whatever kind and priority."""
    return in_project(project, bounded(f"jobs.*.*.{job_tokens(job_id)}"))


def jobs_of(kind: str, priority: str) -> list[str]:
    """All forms under which jobs of a kind and priority arrive, of every project."""
    base = bounded(f"jobs.{token(kind)}.{token(priority)}")
    return list(in_any_project(base, f"{base}.>"))


def waiting(job_id: str, project: str = DEFAULT_PROJECT) -> str:
    """One job that waits for others."""
    return in_project(project, bounded(f"waiting.{job_tokens(job_id)}"))


def later(job_id: str, project: str = DEFAULT_PROJECT) -> str:
    """One job that the server lets go at a time."""
    return in_project(project, bounded(f"later.{job_tokens(job_id)}"))


def due(job_id: str, project: str = DEFAULT_PROJECT) -> str:
    """One job whose time has come."""
    return in_project(project, bounded(f"due.{job_tokens(job_id)}"))


def result(job_id: str, project: str = DEFAULT_PROJECT) -> str:
    """The one result of a job."""
    return in_project(project, bounded(f"results.{job_tokens(job_id)}"))


def results_of(batch: str, project: str = DEFAULT_PROJECT) -> str:
    """The results of a batch's jobs."""
    return in_project(project, bounded(f"results.{token(batch)}.*"))


def stages_of_batch(batch: str, project: str = DEFAULT_PROJECT) -> tuple[tuple[str, str], ...]:
    """Streams and subjects of a batch's jobs in the order in which they move on: for their time, for others, queued."""
    name = token(batch)
    stages = (
        ("LATER", f"later.{name}.*"),
        ("LATER", f"due.{name}.*"),
        ("JOBS", f"waiting.{name}.*"),
        ("JOBS", f"jobs.*.*.{name}.*"),
    )
    return tuple((stream, in_project(project, subject)) for stream, subject in stages)


def stages_of_job(job_id: str, project: str = DEFAULT_PROJECT) -> tuple[tuple[str, str], ...]:
    """The same of one job."""
    return (
        ("LATER", later(job_id, project)),
        ("LATER", due(job_id, project)),
        ("JOBS", waiting(job_id, project)),
        ("JOBS", any_job(job_id, project)),
    )


def finished_job(subject: str) -> str:
    """The reference of the job that a result's subject is about."""
    project, rest = split_project(subject)
    return job_reference(job_id(rest.split(".")[1:]), project)


def job_key(job_id: str, project: str = DEFAULT_PROJECT) -> str:
    """Where buckets keep what is known of a job or batch."""
    return in_project(project, token(job_id))


def progress(job_id: str, project: str = DEFAULT_PROJECT) -> str:
    """Progress of a job (core NATS)."""
    return in_project(project, bounded(f"progress.{job_tokens(job_id)}"))


def dead(kind: str, project: str = DEFAULT_PROJECT) -> str:
    """Jobs of a kind that cannot succeed."""
    return in_project(project, bounded(f"dead.{token(kind)}"))


def poison(stream: str) -> str:
    """Messages of a stream that its consumers could not handle."""
    return bounded(f"poison.{token(stream)}")


def audit(actor: str) -> str:
    """What one actor did."""
    return bounded(f"audit.{token(actor)}")


DELIVER = "notifier.deliver"
"""Requests to tell one subscription of one alert now (core NATS, request and reply)."""


def is_request(subject: str) -> bool:
    """Whether whoever writes to a subject waits for an answer: of `{"ok": false}` with why, where there is no other."""
    return subject == DELIVER or subject.startswith("simulate.")


def simulate(node: str) -> str:
    """Requests to the simulated devices of a node (core NATS, request and reply)."""
    return bounded(f"simulate.{token(node)}")
