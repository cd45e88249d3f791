"""The doors of files: what is no regular file is not read, what is written is whole, and nothing else is touched."""

import errno
import os
import stat
from pathlib import Path

import pytest

from planc.errors import OutputError
from planc.files import atomic_write, below, read_file, write_output, write_outputs


def test_reads_a_regular_file_and_follows_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "a") == read_file(tmp_path / "link") == b"content"


def test_refuses_pipes_devices_and_folders_without_opening_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            read_file(path)


def test_refuses_a_file_over_the_limit_without_reading_it(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(OSError, match="1099511627776 bytes"):
        read_file(tmp_path / "sparse")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "a\0b", "n" * 5000, "out/x", "a/../b"]
)
def test_a_name_is_followed_only_below_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").symlink_to("/")
    with pytest.raises(OSError, match="outside the folder|not the name"):
        below(tmp_path, name)


def test_a_name_below_the_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    assert below(tmp_path, "sub/x") == below(tmp_path, "link/x") == tmp_path.resolve() / "sub/x"


def test_a_replaced_file_keeps_its_permissions_and_a_new_one_has_the_usual(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"old")
    os.chmod(tmp_path / "kept", 0o640)
    (tmp_path / "usual").touch()
    atomic_write(tmp_path / "kept", b"new")
    atomic_write(tmp_path / "made", b"new")
    assert (tmp_path / "kept").read_bytes() == (tmp_path / "made").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o640
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("sub/real")
    (tmp_path / "dangling").symlink_to("sub/made")
    atomic_write(tmp_path / "link", b"new")
    atomic_write(tmp_path / "dangling", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "sub/real").read_bytes() == (tmp_path / "sub/made").read_bytes() == b"new"


def test_devices_and_pipes_are_written_into_and_stay_what_they_are(tmp_path: Path) -> None:
    atomic_write(Path(os.devnull), b"data")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    atomic_write(tmp_path / "pipe", b"data")
    assert os.read(reader, 10) == b"data"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_folders_missing_folders_and_full_devices_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none/x", tmp_path / ("n" * 300), Path("/dev/full")):
        with pytest.raises(OutputError, match="the thing cannot be written"):
            write_output(path, b"data", "thing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_when_the_disk_fails_the_old_content_stays_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space"):
            atomic_write(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_what_killed_runs_left_is_swept_and_what_others_write_now_is_not(tmp_path: Path) -> None:
    (tmp_path / ".a.12345678.planc").write_bytes(b"left long ago")
    (tmp_path / ".a.abcdefgh.planc").write_bytes(b"left just now")
    (tmp_path / ".b.12345678.planc").write_bytes(b"of another target")
    for name in (".a.12345678.planc", ".b.12345678.planc"):
        os.utime(tmp_path / name, (0, 0))
    atomic_write(tmp_path / "a", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.abcdefgh.planc", ".b.12345678.planc", "a"]


def test_a_name_that_no_file_can_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="null byte"):
        write_output(tmp_path / "a\0b", b"", "state")


def test_of_several_files_none_is_replaced_where_one_cannot_be(tmp_path: Path) -> None:
    kept, new, nowhere = tmp_path / "kept", tmp_path / "new", tmp_path / "missing" / "file"
    kept.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"missing/file: the plan cannot be written \(there is no folder"):
        write_outputs({kept: b"1", new: b"2", nowhere: b"3"}, "plan")
    assert os.listdir(tmp_path) == ["kept"]
    assert kept.read_bytes() == b"old"
    nowhere.parent.mkdir()
    write_outputs({kept: b"1", new: b"2", nowhere: b"3"}, "plan")
    assert [path.read_bytes() for path in (kept, new, nowhere)] == [b"1", b"2", b"3"]
