"""Whose a message is: names, subjects, references and actors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError, MalformedMessageError
from accelerator_autopilot.contracts.message_addressing import check_address
from accelerator_autopilot.contracts.messages.base import OwnedMessage
from accelerator_autopilot.contracts.messages.commands import ScaleCommand
from accelerator_autopilot.contracts.messages.jobs import JobBody, JobResult
from accelerator_autopilot.contracts.projects import check_project, job_reference, parse_job_reference
from accelerator_autopilot.inference.jobs.decoding import read_job
from accelerator_autopilot.transport.clock import utc_now
from tests.contract.examples import EXAMPLES, models

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
# Parts of other messages; everything else travels or is stored by itself.
PARTS = {
    "Considered", "DeviceInfo", "DrainNote", "Evidence", "JobError", "JobNeeds", "JobUsage", "LinkInfo", "Objective",
    "PoolPolicy", "PowerBudget", "ProcessInfo", "TimedValue", "WorkerStatus",
    # Answers within one request.
    "DeliveryReply", "SimulationReply",
}  # fmt: skip


def test_every_message_that_travels_by_itself_has_an_owner() -> None:
    assert {name for name, model in models().items() if not issubclass(model, OwnedMessage)} == PARTS


@pytest.mark.parametrize("name", sorted(set(models()) - PARTS))
def test_the_owner_survives_the_way(name: str) -> None:
    model: Any = models()[name]
    sent = model.model_validate(EXAMPLES[name] | {"project": "vision", "actor": "ana"})
    assert model.model_validate_json(sent.model_dump_json()).owner == {"project": "vision", "actor": "ana"}
    with pytest.raises(ValidationError):
        model.model_validate(EXAMPLES[name] | {"project": "Vision *"})


def test_the_actor_is_whoever_an_older_field_names() -> None:
    assert JobBody(submitter="ana").actor == "ana"
    assert JobBody(submitter="ana", actor="ben").actor == "ben"
    now = utc_now()
    command = ScaleCommand(id="c", issuer="scheduler", reason="r", at=now, expires_at=now, pool="p", replicas=1)
    assert command.owner == {"project": "default", "actor": "scheduler"}


@given(NAMES, st.text(min_size=1, max_size=20))
def test_subjects_keys_and_references_lead_back(project: str, job_id: str) -> None:
    result = subjects.result(job_id, project)
    assert parse_job_reference(subjects.finished_job(result)) == (job_id, project)
    assert parse_job_reference(job_reference(job_id, project)) == (job_id, project)
    owner, key = subjects.split_project(subjects.job_key(job_id, project))
    assert (owner, subjects.untoken(key)) == (project, job_id)


def test_the_default_project_has_the_subjects_that_it_always_had() -> None:
    assert subjects.job("embed", "high", "a") == "jobs.embed.high.a"
    assert subjects.job("embed", "high", "a", "vision") == "projects.vision.jobs.embed.high.a"
    assert subjects.in_any_project("results.>") == ("results.>", "projects.*.results.>")


@pytest.mark.parametrize("name", ["", "Vision", "a.b", "-a", "a-", "a" * 64, "*", "a b", "é"])
def test_names_that_no_subject_can_hold_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="project"):
        check_project(name)


def test_a_message_speaks_for_the_project_of_its_subject_alone() -> None:
    result = JobResult.model_validate(EXAMPLES["JobResult"])
    check_address(subjects.result(result.job_id), result)
    with pytest.raises(MalformedMessageError, match="project"):
        check_address(subjects.result(result.job_id, "vision"), result)
    moved = result.model_copy(update={"project": "vision"})
    check_address(subjects.result(result.job_id, "vision"), moved)
    with pytest.raises(MalformedMessageError, match="project"):
        check_address(subjects.result(result.job_id), moved)
    with pytest.raises(MalformedMessageError, match="must not lie in a project"):
        check_address("projects.vision.alerts.info.n.d", {})


def test_a_job_belongs_to_the_project_of_its_subject() -> None:
    job = read_job("projects.vision.jobs.echo.low.x", b'{"submitter": "ana"}', 1, utc_now())
    assert (job.project, job.actor, job.reference) == ("vision", "ana", "vision/x")
    with pytest.raises(InvalidInputError, match="project"):
        read_job("jobs.echo.low.x", b'{"project": "vision"}', 1, utc_now())
