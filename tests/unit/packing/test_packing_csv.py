"""`planc pack` and its files: the columns kept, the offsets right, and every error in its place."""

import csv
import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from planc.cli.pack import pack
from planc.errors import PlancError, UsageError
from planc.packing.buffers import Buffer, PackingError
from planc.packing.check import Verdict, check_packing
from planc.packing.csv import read_buffers, write_offsets

HEADER = "id,lower,upper,size\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "buffers.csv"


def test_rows_of_one_id_are_one_buffer_with_gaps(file: Path) -> None:
    file.write_text("size,id,alignment,upper,lower,note\n8,x,4,9,6,late\n3,y,,7,0,\n8,x,4,2,0,early\n")
    table = read_buffers(file)
    assert table.buffers == (Buffer("x", 8, ((0, 2), (6, 9)), 4), Buffer("y", 3, ((0, 7),)))
    assert table.owner == (0, 1, 0)


def test_minimallocs_gaps_and_offsets_are_honoured(file: Path) -> None:
    file.write_text("id,lower,upper,size,gaps,offset\na,0,20,8,5-9 12-14 ,64\nb,-4,9,3,-3--1,\nc,0,4,1,0-4,\n")
    assert read_buffers(file).buffers == (
        Buffer("a", 8, ((0, 5), (9, 12), (14, 20)), 1, 64),
        Buffer("b", 3, ((-4, -3), (-1, 9))),
        Buffer("c", 1, ()),
    )


def test_minimallocs_older_names_are_read_and_end_is_the_last_time(file: Path, tmp_path: Path) -> None:
    file.write_text("start,size,buffer,end,gaps\n6,18,x,11,7-8\n5,15,y,9,\n")
    table = read_buffers(file)
    assert table.buffers == (Buffer("x", 18, ((6, 7), (9, 12))), Buffer("y", 15, ((5, 10),)))
    write_offsets(tmp_path / "out.csv", table, (0, 18))
    assert (tmp_path / "out.csv").read_text().startswith("start,size,buffer,end,gaps,offset\n6,18,x,11,7-8,0\n")


def test_what_a_gap_leaves_free_is_used_and_a_fixed_buffer_stays(file: Path, tmp_path: Path) -> None:
    file.write_text("id,lower,upper,size,gaps\na,0,20,10,5-9\nb,5,9,10,\n")
    assert json.loads(run(str(file), "--capacity", "10", "--json")[0])["height"] == 10
    file.write_text("id,lower,upper,size,offset\na,0,20,10,64\nb,5,9,10,\n")
    assert run(str(file), "-o", str(tmp_path / "out.csv"), "--deterministic")[1] is None
    assert (tmp_path / "out.csv").read_text() == "id,lower,upper,size,offset\na,0,20,10,64\nb,5,9,10,0\n"


def test_written_rows_keep_their_columns_and_replace_offsets(file: Path, tmp_path: Path) -> None:
    file.write_text('offset,id,lower,upper,size,note\n,x,0,2,8,"a, b"\n,y,0,7,3,\n,x,6,9,8,c\n')
    write_offsets(tmp_path / "out.csv", read_buffers(file), (3, 0))
    assert (tmp_path / "out.csv").read_text() == (
        'id,lower,upper,size,note,offset\nx,0,2,8,"a, b",3\ny,0,7,3,,0\nx,6,9,8,c,3\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file, not a table of buffers"),
        ("id,lower,size\na,0,1\n", "line 1: no column 'upper'"),
        ("id,lower,upper,size,size\na,0,1,1,1\n", "line 1: column 'size' appears more than once"),
        (HEADER + "a,0,1,8\nb,0,1\n", "line 3: 3 values; expected 4"),
        (HEADER + "a,0,1,8\n\nb,x,1,8\n", "line 4, column 'lower': 'x'; expected an integer"),
        (HEADER + "a,0,1.5,8\n", "line 2, column 'upper': '1.5'; expected an integer"),
        (HEADER + "a,5,5,8\n", "line 2, column 'upper': 5; expected more than lower, 5"),
        (HEADER + "a,0,1,-8\n", "line 2, column 'size': -8; expected 0 to"),
        (HEADER + f"a,0,1,{2**70}\n", f"line 2, column 'size': {2**70}; expected 0 to"),
        ("id,lower,upper,size,alignment\na,0,1,8,0\n", "line 2, column 'alignment': 0; expected 1 to"),
        (HEADER + "a,0,2,8\na,4,6,9\n", "line 3, column 'size': 9; expected 8 as on line 2"),
        (HEADER + "a,4,6,8\na,0,5,8\n", "line 2, column 'lower': buffer 'a' is alive already, by line 3"),
        (HEADER + 'a,0,"1,8\n', "not valid CSV"),
        ("id,start,lower,upper,size\na,0,0,1,1\n", "line 1: column 'start' appears more than once, or under two names"),
        ("id,lower,upper,size,gaps\na,0,9,8,5\n", "line 2, column 'gaps': '5'; expected gaps such as 7-9"),
        ("id,lower,upper,size,gaps\na,0,9,8,1-2-3\n", "line 2, column 'gaps': '1-2-3'; expected gaps"),
        ("id,lower,upper,size,gaps\na,0,9,8," + "9" * 5000 + "-2\n", "line 2, column 'gaps': '9999"),
        ("id,lower,upper,size,gaps\na,0,9,8,5-5\n", "line 2, column 'gaps': the gap from 5 to 5; expected one within"),
        ("id,lower,upper,size,gaps\na,0,9,8,8-10\n", "line 2, column 'gaps': the gap from 8 to 10; expected one"),
        (
            "id,lower,upper,size,gaps\na,0,9,8,4-7 2-5\n",
            "column 'gaps': the gap from 4 to 7; expected one within 0 to 9",
        ),
        ("id,lower,upper,size,gaps\na,0,9,8,5-6@0:4\n", "'5-6@0:4': gaps in which a part of the buffer stays"),
        ("id,lower,upper,size,offset\na,0,9,8,-1\n", "line 2, column 'offset': -1; expected 0 to"),
        ("id,lower,upper,size,offset\na,0,2,8,0\na,4,6,8,8\n", "line 3, column 'offset': 8; expected 0 as on line 2"),
    ],
)
def test_bad_files_are_refused_by_line_and_column(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(PackingError, match=re.escape(str(file)) + ".*" + re.escape(message)):
        read_buffers(file)


def test_bytes_that_are_no_text_are_refused(file: Path) -> None:
    file.write_bytes(b"id,lower\xff")
    with pytest.raises(PackingError, match="byte 8 is not UTF-8"):
        read_buffers(file)


def test_a_missing_file_is_a_usage_error(file: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_buffers(file)


def run(*arguments: str) -> tuple[str, BaseException | None]:
    app = typer.Typer()
    app.command()(pack)
    result = CliRunner().invoke(app, list(arguments))
    return result.stdout, result.exception


def test_the_command_writes_offsets_that_fit_and_prints_one_object(file: Path, tmp_path: Path) -> None:
    file.write_text(HEADER + "a,0,4,6\nb,0,2,4\nc,2,4,4\nd,4,6,10\n")
    output = tmp_path / "out.csv"
    printed, error = run(str(file), "--capacity", "10", "--json", "-o", str(output))
    assert error is None
    result = json.loads(printed)
    assert set(result) == {"height", "lower_bound", "solve_s", "status"}
    assert (result["height"], result["lower_bound"], result["status"]) == (10, 10, "optimal")
    offsets = [int(row["offset"]) for row in csv.DictReader(output.open())]
    assert check_packing(read_buffers(file).buffers, offsets, 10) is Verdict.GOOD


def test_an_impossible_capacity_exits_with_4_and_writes_nothing(file: Path, tmp_path: Path) -> None:
    file.write_text(HEADER + "a,0,4,6\nb,0,2,4\n")
    printed, error = run(str(file), "--capacity", "9", "--json", "-o", str(tmp_path / "out.csv"))
    assert json.loads(printed)["status"] == "infeasible"
    assert isinstance(error, PlancError)
    assert error.exit_code == 4
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("capacity", ["many", "-1", "0", "60%"])
def test_a_capacity_that_is_no_size_is_a_usage_error(file: Path, capacity: str) -> None:
    file.write_text(HEADER + "a,0,4,6\n")
    _, error = run(str(file), f"--capacity={capacity}")
    assert isinstance(error, UsageError)
