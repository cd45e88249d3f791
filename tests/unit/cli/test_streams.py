"""Streams, exit codes and outputs of the program: what arrived, what did not, and nothing of the user's is lost."""

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.zoo_networks import MOMENTUM, small_step

from planc.cli.console import print_json
from planc.costs.catalogue import card_names

Planc = Callable[..., tuple[int, str, str]]
CARD = sorted(card_names())[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its plan, for a card of the catalogue."""
    folder = tmp_path_factory.mktemp("streams")
    onnx.save(small_step("mlp", MOMENTUM), folder / "m.onnx")
    done = shell(folder, f'$P compile m.onnx --device "{CARD}" --budget 1GiB --solver keep-all -o m.plan.json')
    assert done.returncode == 0, done.stderr
    return folder


def shell(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` in `folder`, `$P` being this planc."""
    program = f"{sys.executable} -c 'import sys; sys.argv[0] = \"planc\"; from planc.cli.main import main; main()'"
    return subprocess.run(
        ["bash", "-c", f"P() {{ {program} \"$@\"; }}; {command.replace('$P', 'P')}"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("options", ["", "--json", "--at-peak"])
@pytest.mark.parametrize(("stdout", "reason"), [(">&-", "it is closed"), ("> /dev/full", "No space left")])
def test_a_result_that_does_not_arrive_is_an_error(folder: Path, options: str, stdout: str, reason: str) -> None:
    done = shell(folder, f"$P inspect m.plan.json {options} {stdout}")
    assert done.returncode == 2
    assert done.stderr.startswith("planc: stdout: the result cannot be written")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    for options in ("", "--json"):
        done = shell(folder, f"$P inspect m.plan.json {options} | head -c 1; exit ${{PIPESTATUS[0]}}")
        assert (done.returncode, done.stderr) == (0, "")


def test_without_stderr_data_and_exit_codes_stay(folder: Path) -> None:
    whole = shell(folder, "$P inspect m.plan.json --json")
    assert whole.returncode == 0
    for stderr in ("2>&-", "2> /dev/full"):
        assert shell(folder, f"$P inspect m.plan.json --json {stderr}").stdout == whole.stdout
        assert shell(folder, f"$P inspect none.json {stderr}").returncode == 3
    assert shell(folder, "$P inspect none.json <&- >&- 2>&-").returncode == 3


def test_no_file_gets_the_number_of_a_closed_stream(folder: Path) -> None:
    """What libraries print to descriptor 1 must not end up in a page that is being written."""
    done = shell(folder, "$P inspect m.plan.json --html page.html >&- 2>&-")
    assert done.returncode == 2
    page = (folder / "page.html").read_text()
    assert page.startswith("<!")
    assert page.rstrip().endswith("</html>")


def test_an_encoding_that_lacks_characters_gets_escapes(folder: Path) -> None:
    done = shell(folder, "$P inspect m.plan.json", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    picture = done.stdout.partition("memory over predicted time")[2]
    assert "\\u" not in picture
    assert "#" in picture
    rounded = shell(folder, "$P inspect m.plan.json").stdout.partition("memory over predicted time")[2]
    assert [len(line) for line in picture.splitlines()] == [len(line) for line in rounded.splitlines()]


def test_wrong_command_lines_are_usage_errors_on_stderr(folder: Path) -> None:
    for arguments in ("", "nonsense", "compile", "compile m.onnx --nonsense", "run m.plan.json --steps x"):
        done = shell(folder, f"$P {arguments}")
        assert (done.returncode, done.stdout) == (2, "")
        assert "Usage: planc" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        f"compile m.onnx --device '{CARD}' -o m.onnx", f"compile m.onnx --device '{CARD}' -o link.onnx",
        f"compile m.onnx --device '{CARD}' -o hard.onnx", f"compile m.onnx --device '{CARD}' -o m.onnx.data",
        "grad m.onnx --loss mse -o m.onnx", f"profile m.onnx --device '{CARD}' -o m.onnx",
        "run m.plan.json --save-state m.onnx", "run m.plan.json --save-state m.plan.json",
        "inspect m.plan.json --html m.plan.json", "inspect m.plan.json --html a --trace a",
    ],
)  # fmt: skip
def test_an_output_is_no_input_and_no_other_output(
    folder: Path, planc: Planc, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "link.onnx").unlink(missing_ok=True)
    (folder / "link.onnx").symlink_to("m.onnx")
    if not (folder / "hard.onnx").exists():
        os.link(folder / "m.onnx", folder / "hard.onnx")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, message = planc(*shlex.split(command))
    assert code == 2
    assert "choose another file" in message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("output", ["missing/x", "."])
def test_where_nothing_can_be_written_no_work_is_done(
    folder: Path, planc: Planc, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(folder)
    for command in (f"compile m.onnx --device '{CARD}'", f"profile m.onnx --device '{CARD}'", "zoo build mlp"):
        code, _, message = planc(*shlex.split(f"{command} -o {output}"))
        assert code == 2
        assert "cannot be written" in message


def test_a_stream_as_output_stays_a_stream(folder: Path) -> None:
    done = shell(
        folder,
        f"$P compile m.onnx --device '{CARD}' --solver keep-all --budget 1GiB -o /dev/stderr 2>&1 > /dev/null | head -c 10",
    )
    assert done.stdout == '{"format":'
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a full and a read-only disk")
def test_a_cache_that_cannot_be_written_loses_no_measurement(folder: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", full], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no permission to mount")
    try:
        (full / "x").write_bytes(b"0" * 4096)
        command = f"$P compile m.onnx --device cpu --budget 1GiB --solver keep-all -o {tmp_path}/p.json"
        for cache in (full, Path("/proc/planc")):
            done = shell(folder, command, PLANC_CACHE_DIR=str(cache))
            assert done.returncode == 0, done.stderr
            assert "planc: warning: the measured costs are not kept" in done.stderr
            (tmp_path / "p.json").unlink()
    finally:
        subprocess.run(["umount", full], check=True)


def test_names_from_files_do_not_reach_the_terminal_raw(
    folder: Path, planc: Planc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Escapes, markup and bidirectional controls in the names of a plan, in every way to show it."""
    monkeypatch.chdir(tmp_path)
    text = (folder / "m.plan.json").read_text()
    for evil in ("\\u001b]0;owned\\u0007", "[/bold][link=x]", "\\u202egnp", ":warning:[red]"):
        (tmp_path / "p.json").write_text(text.replace('"fc0', f'"{evil}fc0'))
        for options in ("", "--at-peak", "--html page.html", "--trace t.json"):
            code, data, message = planc(*shlex.split(f"inspect p.json {options}"))
            assert code == 0, message
            assert not {"\x1b", "\x07", "\u202e"} & set(data + message)
        page = (tmp_path / "page.html").read_text()
        assert not {"\x1b", "\x07", "\u202e"} & set(page)


@pytest.mark.parametrize("evil", ["\\nplanc: all is well", "\\u000aplanc: all is well", "\\\\\\rplanc"])
def test_names_of_several_lines_are_refused(evil: str, folder: Path, planc: Planc, tmp_path: Path) -> None:
    """A second line in a name would pass for one of planc's own."""
    text = (folder / "m.plan.json").read_text()
    (tmp_path / "p.json").write_text(text.replace('"fc0', f'"{evil}fc0'))
    code, data, message = planc("inspect", str(tmp_path / "p.json"))
    assert (code, data) == (3, "")
    assert "line break" in message
    assert len(message.splitlines()) == 1


def test_an_escaped_backslash_before_n_is_no_line_break(folder: Path, planc: Planc, tmp_path: Path) -> None:
    text = (folder / "m.plan.json").read_text()
    (tmp_path / "p.json").write_text(text.replace('"fc0', '"\\\\nfc0'))
    code, _, message = planc("inspect", str(tmp_path / "p.json"))
    assert code == 0, message


def test_json_has_no_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    """A step that diverged has losses that are none; most parsers refuse NaN."""
    print_json({"losses": [float("nan"), float("inf"), 0.5], "name": "\x9b\u202e", "size": 1 << 62})
    printed = capsys.readouterr().out
    assert printed == '{"losses": [null, null, 0.5], "name": "\\u009b\\u202e", "size": 4611686018427387904}\n'


@pytest.mark.parametrize("option", ["--trace", "--memory-snapshot", "--html"])
def test_a_picture_of_a_plan_does_not_replace_its_model(folder: Path, option: str, planc: Planc) -> None:
    """The model that the plan names, beside it, though no option does."""
    before = (folder / "m.onnx").read_bytes()
    code, _, err = planc("inspect", folder / "m.plan.json", option, folder / "m.onnx")
    assert (code, "which the command reads" in err) == (2, True)
    assert (folder / "m.onnx").read_bytes() == before


def test_no_output_replaces_data_that_lies_beside_a_model(folder: Path, tmp_path: Path, planc: Planc) -> None:
    model = onnx.load(folder / "m.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "m.plan.json").write_bytes((folder / "m.plan.json").read_bytes())
    before = (tmp_path / "weights.bin").read_bytes()
    for command in (("compile", "m.onnx", "--device", CARD, "-o"), ("run", "m.plan.json", "--save-state")):
        code, _, err = planc(command[0], tmp_path / command[1], *command[2:], tmp_path / "weights.bin")
        assert (code, "weights.bin, which the command reads" in err) == (2, True)
    assert (tmp_path / "weights.bin").read_bytes() == before


def test_a_table_of_buffers_is_not_replaced_by_its_offsets(tmp_path: Path, planc: Planc) -> None:
    table = tmp_path / "buffers.csv"
    table.write_text("id,lower,upper,size\na,0,1,5\n")
    code, _, err = planc("pack", table, "-o", table)
    assert (code, "which the command reads" in err) == (2, True)
    assert table.read_text().startswith("id,lower,upper,size\n")
