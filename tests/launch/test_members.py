"""The table of a sweep: its rows, their command lines, and refused tables."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.errors import UserError
from climax_hpc.fields.variables import REGISTRY
from climax_hpc.launch.members import COLUMNS, Member, MemberTable, make_table, read_table, write_table

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = sorted(REGISTRY)
cell = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\0"), min_size=1)


def test_every_combination_once(tmp_path: Path) -> None:
    table = make_table(
        Path("/scratch/it's mine/sweep 1"),
        variables=["2m_temperature", "geopotential_500+temperature_850"],
        lead_hours=[24, "6-168"],
        seeds=[1, 2],
        grid={"optimizer.lr": [1e-4, "5e-4"]},
    )
    assert table.to_tsv() == (GOLDEN / "sweep.tsv").read_text()
    write_table(table, tmp_path / "deep" / "members.tsv")
    assert read_table(tmp_path / "deep" / "members.tsv") == table


def test_arguments_of_a_row() -> None:
    member = Member(
        index=0, variable="2m_temperature", lead_hours="24", seed="3", run_folder="a b", settings={"optimizer.lr": "1"}
    )
    assert member.arguments() == [
        "--run_folder=a b",
        '--data.out_variables=["2m_temperature"]',
        "--data.min_lead_hours=24",
        "--data.max_lead_hours=24",
        "--train.seed=3",
        "--optimizer.lr=1",
    ]
    assert Member(index=0, run_folder="r").arguments() == ["--run_folder=r"]
    assert Member(index=0, task="downscaling", run_folder="r").arguments() == ["--run_folder=r", "--task=downscaling"]


@settings(deadline=None, max_examples=25)
@given(
    folders=st.lists(cell, min_size=1, max_size=4, unique=True),
    variable=st.sampled_from(["", *NAMES]),
    lead=st.integers(1, 999),
    value=cell,
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, folders: list[str], variable: str, lead: int, value: str
) -> None:
    members = [
        Member(index=i, variable=variable, lead_hours=str(lead), run_folder=folder, settings={"model.note": value})
        for i, folder in enumerate(folders)
    ]
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    write_table(MemberTable(members=tuple(members)), path)
    assert [m.arguments() for m in read_table(path).members] == [m.arguments() for m in members]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "forcast"}, "row 4: unknown task 'forcast'; did you mean forecast"),
        ({"variable": "2m_temprature"}, "did you mean 2m_temperature"),
        ({"lead_hours": "soon"}, "row 4: lead_hours 'soon'"),
        ({"lead_hours": "48-24"}, "row 4: lead_hours '48-24'"),
        ({"lead_hours": "0"}, "row 4: lead_hours '0'"),
        ({"seed": "-1"}, "row 4: seed '-1'"),
        ({"run_folder": ""}, "row 4: run_folder is empty"),
        ({"run_folder": "a\tb"}, "a tab or a line break"),
        ({"settings": {"x": "a\nb"}}, "a tab or a line break"),
    ],
)
def test_bad_members(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(Member(index=4, run_folder="r"), **change)  # type: ignore[arg-type]


def test_bad_tables(tmp_path: Path) -> None:
    a = Member(index=0, run_folder="a")
    with pytest.raises(UserError, match="without a gap"):
        MemberTable(members=(a, replace(a, index=2, run_folder="b")))
    with pytest.raises(UserError, match="is used by two rows"):
        MemberTable(members=(a, replace(a, index=1)))
    with pytest.raises(UserError, match="no row 1"):
        MemberTable(members=(a,)).row(1)
    with pytest.raises(UserError, match=r"optimizer\.lr has no values"):
        make_table(tmp_path, grid={"optimizer.lr": []})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not the table of a sweep"),
        ("index\ttask\n", "is not the table of a sweep"),
        ("\t".join(COLUMNS) + "\n0\tforecast\n", "has 2 cells, the header 6"),
        ("\t".join(COLUMNS) + "\nx\tforecast\t\t\t\tr\n", "must begin with its index"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_table(path)
    with pytest.raises(UserError, match="cannot read the table"):
        read_table(tmp_path / "absent.tsv")
