"""The contract that every kind keeps, and what this one does."""

from word_count.kind import KIND
from word_count.models import WordCountResult

from accelerator_autopilot.inference.kinds.contract_check import check_kind


def test_it_keeps_the_contract_of_kinds() -> None:
    assert check_kind(KIND) == [WordCountResult(counts={"two": 2})]
