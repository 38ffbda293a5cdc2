"""Projects: who shares jobs, results and rights. Everything belongs to one; `default` is there from the start."""

from __future__ import annotations

import re

from accelerator_autopilot.contracts.errors import InvalidInputError

DEFAULT_PROJECT = "default"
PROJECT_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_PROJECT = re.compile(PROJECT_PATTERN)


def is_project(name: str) -> bool:
    """Whether a project can have this name: it must be a DNS label."""
    return _PROJECT.fullmatch(name) is not None


def check_project(name: str) -> str:
    """The name itself. Raises InvalidInputError for one that is not a DNS label."""
    if not is_project(name):
        rule = "must have 1 to 63 of a-z, 0-9 and '-', and begin and end with a letter or digit"
        raise InvalidInputError("project", name, rule)
    return name


def job_reference(job_id: str, project: str) -> str:
    """A job among those of all projects: its id, behind `<project>/` outside the project `default`."""
    return job_id if project == DEFAULT_PROJECT and "/" not in job_id else f"{project}/{job_id}"


def parse_job_reference(reference: str) -> tuple[str, str]:
    """Undo `job_reference`: the job's id and project."""
    project, slash, job_id = reference.partition("/")
    return (job_id, project) if slash else (reference, DEFAULT_PROJECT)
