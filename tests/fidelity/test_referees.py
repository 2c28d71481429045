# SPDX-License-Identifier: Apache-2.0
"""No independent tool finds wrong in a protected file what it did not find wrong in its source; see
:mod:`tests.fidelity.referees`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fidelity import referees

pytestmark = pytest.mark.slow

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "fidelity_cases"

Runs = dict[str, list[referees.Pair]]


@pytest.fixture(scope="session")
def shipped_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    files = referees.shipped_files()
    if not files:
        pytest.skip("pydicom was installed without its test files")
    return referees.protected_runs(files, tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="session")
def case_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    if not DATA.is_dir():
        pytest.skip("the folder of cases is not there")
    return referees.protected_runs(referees.case_files(DATA), tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="session")
def export_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    sources = referees.exports(DATA)
    if not sources:
        pytest.skip("there is no export: neither the folder of them, nor pydicom's")
    return referees.protected_runs(sources, tmp_path_factory.mktemp("exports"))


@pytest.mark.parametrize("referee", referees.REFEREES, ids=lambda referee: referee.name)
@pytest.mark.parametrize(
    ("runs", "at_least"),
    [("shipped_runs", 30), ("case_runs", 40), ("export_runs", 1)],
    ids=["shipped", "cases", "exports"],
)
def test_no_regression(runs: str, at_least: int, referee: referees.Referee, request: pytest.FixtureRequest) -> None:
    if reason := referee.missing():
        pytest.skip(reason)
    protected: Runs = request.getfixturevalue(runs)
    assert len(protected) >= at_least
    row = referees.summarize(referee, protected)
    print(referees.table([row]))
    assert row["regressions"] == {}
