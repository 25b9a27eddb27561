"""The state directory is its owner's alone: modes, planted links, seals, the list of functions, the lock."""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs.service import access, allow, disks, envelope, private
from asyncjobs.service.access import Address, StateDir
from asyncjobs.service.allow import Allow
from asyncjobs.service.errors import (
    BadRequest,
    NotAllowed,
    ServiceNotRunning,
    ServiceRunning,
    StateRefused,
    UnknownFunction,
)
from asyncjobs.service.store.lock import StateLock

ROOT = Path(__file__).resolve().parents[1]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user's file can be made by root only")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a state directory may be made; the user has no run-time folder."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "state"


@contextlib.contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in [folder, *folder.rglob("*")]}


# --- the directory ------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_F98_files_are_0600_and_folders_0700_from_birth_whatever_the_umask(place: Path, mask: int) -> None:
    with umask(mask):
        state = StateDir.open(place, create=True)
        state.new_token()
        state.write_address(Address(1, "socket", None, 0.0))
        with StateLock(state.lock, state.socket):
            found = modes(place)
    folders = {".", "logs", "results", "figures", "run"}
    assert found == {name: 0o700 if name in folders else 0o600 for name in found}
    assert found.keys() == folders | {"key", "token", "address.json", "lock"}


def test_the_key_stays_and_the_token_is_new_at_each_start(place: Path) -> None:
    first = StateDir.open(place, create=True)
    again = StateDir.open(place, create=True)
    assert first == again
    assert len(first.key()) == access.KEY_BYTES
    assert first.key() == again.key()
    tokens = {first.new_token() for _ in range(3)}
    assert len(tokens) == 3
    assert again.token() in tokens


@pytest.mark.slow
def test_several_that_make_the_directory_at_once_agree_on_the_key(place: Path) -> None:
    text = (
        f"from asyncjobs.service.access import StateDir; print(StateDir.open({str(place)!r}, create=True).key().hex())"
    )
    running = [subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) for _ in range(6)]
    keys = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 6
    assert keys == {StateDir.open(place).key().hex().encode() + b"\n"}


def test_a_folder_that_cannot_be_made_is_named_as_such() -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot be made: '/proc/no-state-here'"):
        StateDir.open(Path("/proc/no-state-here"), create=True)


def test_without_create_nothing_is_made(place: Path) -> None:
    with pytest.raises(ServiceNotRunning, match="no service has been started in"):
        StateDir.open(place)
    assert not place.exists()
    place.mkdir(0o700)
    with pytest.raises(StateRefused, match="key is missing"):
        StateDir.open(place).key()
    with pytest.raises(ServiceNotRunning):
        StateDir.open(place).token()
    assert list(place.iterdir()) == []


def test_the_default_place_follows_xdg_and_a_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert access.default_path("night") == tmp_path / "xdg" / "asyncjobs" / "night"
    assert StateDir.open(None, "night", True).path == tmp_path / "xdg" / "asyncjobs" / "night"
    assert set(modes(tmp_path / "xdg").values()) == {0o700, 0o600}
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # which the specification says to ignore
    monkeypatch.setenv("HOME", str(tmp_path))
    assert access.default_path() == tmp_path / ".local" / "state" / "asyncjobs" / "default"
    for name in ("", "../up", "a/b", "a\nb", ".hidden", "x" * 65):
        with pytest.raises(BadRequest):
            access.default_path(name)


def test_an_address_comes_back_and_goes_at_the_end(place: Path) -> None:
    state = StateDir.open(place, create=True)
    assert state.read_address() is None
    address = Address(os.getpid(), str(state.socket), "http://127.0.0.1:4711", 1234.5)
    state.write_address(address)
    assert StateDir.open(place).read_address() == address
    state.remove_address()
    state.remove_address()
    assert state.read_address() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff", b"x" * 100_000])
def test_an_address_that_no_service_wrote_is_refused(place: Path, content: bytes) -> None:
    state = StateDir.open(place, create=True)
    private.write_private(place / "address.json", content)
    with pytest.raises(StateRefused, match=r"address\.json"):
        state.read_address()


def test_a_writer_that_was_killed_between_its_steps_stands_in_nobodys_way(place: Path) -> None:
    state = StateDir.open(place, create=True)
    private.write_private(place / ".token.new", b"half")
    assert state.new_token() == state.token()


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_of_another_length_is_refused_and_not_replaced(place: Path, content: bytes) -> None:
    StateDir.open(place, create=True)
    private.write_private(place / "key", content)
    with pytest.raises(StateRefused, match="put it back from a backup"):
        StateDir.open(place, create=True)
    assert (place / "key").read_bytes() == content


def test_a_key_that_is_gone_is_not_made_anew_while_there_are_jobs(place: Path) -> None:
    state = StateDir.open(place, create=True)
    private.write_private(state.database, b"jobs")
    (place / "key").unlink()
    with pytest.raises(StateRefused, match="Put the key back from a backup"):
        StateDir.open(place, create=True)
    assert not (place / "key").exists()


# --- what others planted ------------------------------------------------------------------


def link(path: Path, aside: Path) -> None:
    aside.write_bytes(b"x" * 32)
    aside.chmod(0o600)
    path.symlink_to(aside)


def dangling(path: Path, aside: Path) -> None:
    path.symlink_to(aside)


def hard_link(path: Path, aside: Path) -> None:
    aside.write_bytes(b"x" * 32)
    aside.chmod(0o600)
    path.hardlink_to(aside)


def fifo(path: Path, aside: Path) -> None:
    os.mkfifo(path, 0o600)


def folder(path: Path, aside: Path) -> None:
    path.mkdir(0o700)


def bound(path: Path, aside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)


def writable(path: Path, aside: Path) -> None:
    path.write_bytes(b"x" * 32)
    path.chmod(0o660)


def readable(path: Path, aside: Path) -> None:
    path.write_bytes(b"x" * 32)
    path.chmod(0o604)


def of_another(path: Path, aside: Path) -> None:
    path.write_bytes(b"x" * 32)
    path.chmod(0o600)
    os.chown(path, 65534, 65534)


PLANTS = [link, dangling, hard_link, fifo, folder, bound, writable, readable, pytest.param(of_another, marks=as_root)]
FILES: dict[str, Callable[[StateDir], object]] = {
    "key": StateDir.key,
    "token": StateDir.token,
    "address.json": StateDir.read_address,
    "lock": lambda state: StateLock(state.lock, state.socket),
    "ballast": lambda state: StateDir.open(state.path, create=True),
}


def snapshot(path: Path) -> tuple[int, int, int, bytes | None]:
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_uid, path.read_bytes() if stat.S_ISREG(found.st_mode) else None


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", FILES)
def test_F97_what_somebody_planted_is_refused_with_its_path_and_left_as_it_is(
    place: Path, tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    state, aside = StateDir.open(place, create=True), tmp_path / "aside"
    planted = place / name
    planted.unlink(missing_ok=True)
    plant(planted, aside)
    before = snapshot(planted), aside.exists() and snapshot(aside)
    for use in (FILES[name], lambda state: StateDir.open(state.path, create=True)):
        with pytest.raises(StateRefused, match=str(planted)):
            use(state)
    assert before == (snapshot(planted), aside.exists() and snapshot(aside))


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", ["token", "address.json"])
def test_F97_nothing_is_written_through_a_plant(
    place: Path, tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    state, aside = StateDir.open(place, create=True), tmp_path / "aside"
    for planted in (place / name, place / f".{name}.new"):
        plant(planted, aside)
        before = snapshot(planted)
        with pytest.raises(StateRefused, match=str(planted)):
            state.new_token() if name == "token" else state.write_address(Address(1, "", None, 0.0))
        assert snapshot(planted) == before
        planted.rmdir() if planted.is_dir() and not planted.is_symlink() else planted.unlink()
        aside.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["logs", "results", "figures", "run"])
def test_F97_a_link_in_the_place_of_a_folder_is_refused(place: Path, tmp_path: Path, name: str) -> None:
    place.mkdir(0o700)
    (tmp_path / "aside").mkdir(0o700)
    (place / name).symlink_to(tmp_path / "aside")
    with pytest.raises(StateRefused, match="symbolic link"):
        StateDir.open(place, create=True)
    assert list((tmp_path / "aside").iterdir()) == []


def test_F97_a_state_directory_that_is_a_link_or_a_file_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "aside").mkdir(0o700)
    place.symlink_to(tmp_path / "aside")
    with pytest.raises(StateRefused, match="symbolic link, where a folder belongs"):
        StateDir.open(place, create=True)
    place.unlink()
    place.write_text("a file")
    with pytest.raises(StateRefused, match="plain file, where a folder belongs"):
        StateDir.open(place, create=True)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o770, 0o777])
def test_F97_a_directory_that_others_may_write_into_is_refused(place: Path, mode: int) -> None:
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(StateRefused, match="others may write into"):
        StateDir.open(place, create=True)
    assert stat.S_IMODE(place.stat().st_mode) == mode


def test_F97_a_folder_that_others_may_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StateRefused, match="everybody may write into"):
        StateDir.open(tmp_path / "open" / "state", create=True)
    (tmp_path / "open").chmod(0o1777)  # as /tmp is: nobody may rename what is not theirs
    StateDir.open(tmp_path / "open" / "state", create=True)


def test_an_empty_folder_that_others_may_read_is_closed_to_them_and_a_full_one_is_refused(place: Path) -> None:
    place.mkdir()
    place.chmod(0o755)
    StateDir.open(place, create=True)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    place.chmod(0o755)
    with pytest.raises(StateRefused, match="others may look into"):
        StateDir.open(place, create=True)
    assert stat.S_IMODE(place.stat().st_mode) == 0o755


@as_root
def test_F97_a_directory_of_another_user_is_refused(place: Path) -> None:
    place.mkdir(0o700)
    os.chown(place, 65534, 65534)
    with pytest.raises(StateRefused, match="belongs to user 65534"):
        StateDir.open(place, create=True)


@as_root
def test_F99_another_user_reads_nothing_and_reaches_no_socket(place: Path) -> None:
    state = StateDir.open(place, create=True)
    state.new_token()
    with socket.socket(socket.AF_UNIX) as listener:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(state.socket))
        listener.listen()
        assert stat.S_IMODE(state.socket.lstat().st_mode) == 0o600
        text = (
            "import os, socket, sys\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "for path in sys.argv[1:]:\n"
            "    try: open(path).read()\n"
            "    except PermissionError: print('no')\n"
            f"try: socket.socket(socket.AF_UNIX).connect({str(state.socket)!r})\n"
            "except PermissionError: print('no')\n"
        )
        paths = [str(place / "key"), str(place / "token"), str(place / "lock")]
        done = subprocess.run([sys.executable, "-S", "-c", text, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["no"] * 4


# --- the socket ---------------------------------------------------------------------------


def test_the_socket_lies_in_the_run_time_folder_if_that_is_trustworthy(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not below tmp_path: the path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="rt-") as folder:
        runtime = Path(folder)
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        state = StateDir.open(place, "night", True)
        assert state.socket.parent == runtime / "asyncjobs"
        assert state.socket.name.startswith("night-")
        assert state.socket != StateDir.open(tmp_path / "other", "night", True).socket
        state.make_socket_folder()
        assert modes(runtime)["asyncjobs"] == 0o700
        runtime.chmod(0o755)
        assert StateDir.open(place).socket == place / "run" / "socket"


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made_of_it(place: Path) -> None:
    with pytest.raises(StateRefused, match="too long for a socket"):
        StateDir.open(place / ("x" * 100), create=True)


@pytest.mark.parametrize("plant", [link, dangling, fifo, folder, writable])
def test_F97_something_in_the_place_of_the_socket_is_refused(
    place: Path, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    state = StateDir.open(place, create=True)
    plant(state.socket, tmp_path / "aside")
    before = snapshot(state.socket)
    with pytest.raises(StateRefused, match="where our socket belongs"):
        state.make_socket_folder()
    assert snapshot(state.socket) == before


def test_a_socket_that_a_killed_service_left_is_no_obstacle(place: Path, tmp_path: Path) -> None:
    state = StateDir.open(place, create=True)
    bound(state.socket, tmp_path)
    state.make_socket_folder()


# --- file systems -------------------------------------------------------------------------

MOUNTS = """22 27 0:21 / /proc rw shared:1 - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:41 / /home rw shared:9 - nfs4 server:/home rw
31 30 0:42 / /home/me/local\\040disk rw - xfs /dev/vdb rw
32 27 0:43 / /mnt/s rw - fuse.sshfs host: rw
33 27 0:44 / /dev/shm rw - tmpfs tmpfs rw
34 27 0:45 / /layer rw - overlay overlay rw
35 27 0:46 / /twice rw - ext4 /dev/vdc rw
36 35 0:47 / /twice rw - cifs //host/share rw
not a mount
""".splitlines()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/x", "ext4"),
        ("/home", "nfs4"),
        ("/home/me/state", "nfs4"),
        ("/homely", "ext4"),
        ("/home/me/local disk/x", "xfs"),
        ("/mnt/s/x", "fuse.sshfs"),
        ("/twice/x", "cifs"),
    ],
)
def test_the_longest_mount_point_holds_a_path(path: str, kind: str) -> None:
    assert disks.kind_at(path, disks.parse_mounts(MOUNTS)) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "lustre", "fuse.sshfs", "fuse.glusterfs", "virtiofs"])
def test_F80_a_network_file_system_is_refused(kind: str) -> None:
    with pytest.raises(StateRefused, match=f"network file system .{kind}.*local disk"):
        disks.warnings_for(Path("/x"), kind)


def test_F80_what_does_not_outlive_the_machine_is_said() -> None:
    assert "do not outlive a restart" in disks.warnings_for(Path("/x"), "tmpfs")[0]
    assert "do not outlive the container" in disks.warnings_for(Path("/x"), "overlay")[0]
    assert disks.warnings_for(Path("/x"), "ext4") == disks.warnings_for(Path("/x"), None) == ()


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no /dev/shm here")
def test_F80_a_state_directory_in_memory_is_warned_of() -> None:
    path = Path("/dev/shm") / f"test-access-{os.getpid()}"
    try:
        assert "tmpfs" in StateDir.open(path, create=True).warnings[0]
    finally:
        for found in sorted(path.rglob("*"), reverse=True):
            found.rmdir() if found.is_dir() else found.unlink()
        path.rmdir()


# --- the seal -----------------------------------------------------------------------------

KEY, OTHER, ID = b"k" * 32, b"o" * 32, "0" * 26


@pytest.mark.parametrize("size", [1, 32, 63, 64, 65, 200])
def test_the_seal_is_the_standard_hmac(size: int) -> None:
    key, body = bytes(range(size)), b"a call" * 1000
    length = len(body).to_bytes(8, "big")
    mac = hmac.digest(key, ID.encode() + length + body, "sha256")
    assert envelope.seal(key, ID, body) == b"AJ1\n" + length + mac + body


@pytest.mark.slow
@given(st.binary(max_size=300))
def test_a_seal_opens_with_its_key_for_its_job(body: bytes) -> None:
    sealed = envelope.seal(KEY, ID, body)
    assert envelope.open(KEY, ID, sealed) == body
    assert len(sealed) == len(body) + envelope.OVERHEAD


@given(st.binary(max_size=60), st.data())
def test_F95_whatever_is_changed_breaks_the_seal(body: bytes, data: st.DataObject) -> None:
    sealed = bytearray(envelope.seal(KEY, ID, body))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NotAllowed):
        envelope.open(KEY, ID, bytes(sealed))


@pytest.mark.parametrize("wrong", [b"", b"x", b"AJ1\n", b"x" * 100, envelope.seal(KEY, ID, b"body")[:-1]])
def test_F95_what_carries_no_whole_seal_is_not_opened(wrong: bytes) -> None:
    with pytest.raises(NotAllowed):
        envelope.open(KEY, ID, wrong)


def test_F95_a_seal_of_another_key_or_for_another_job_is_none() -> None:
    sealed = envelope.seal(KEY, ID, b"body")
    for key, job in ((OTHER, ID), (KEY, "1" * 26)):
        with pytest.raises(NotAllowed, match=f"job {job}"):
            envelope.open(key, job, sealed)
    with pytest.raises(NotAllowed):
        envelope.open(KEY, ID, sealed + b"more")


# --- which functions ----------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with what may and what may not be run."""
    (tmp_path / "ajpkg" / "sub").mkdir(parents=True)
    (tmp_path / "ajpkg" / "__init__.py").write_text("from ajpkg.sub.deep import fit\n")
    (tmp_path / "ajpkg" / "sub" / "__init__.py").write_text("")
    (tmp_path / "ajpkg" / "sub" / "deep.py").write_text(
        "import functools, os, subprocess\nfrom subprocess import call\nfrom pathlib import Path\nsystem = os.system\n"
        "def fit(x): return x + 1\nasync def afit(x): return x + 2\ndef gen(): yield 1\nasync def agen(): yield 1\n"
        "part = functools.partial(fit, 1)\ncached = functools.lru_cache(fit)\nadd = lambda: 1\nnumber = 3\n"
        "class Model:\n    @staticmethod\n    def fit(x): return x + 3\n"
        "    @classmethod\n    def make(cls, x): return cls.__name__, x\n"
        "    @classmethod\n    async def amake(cls, x): return cls.__name__, x\n"
        "    @classmethod\n    def items(cls): yield 1\n"
        "    def run(self): pass\n    @property\n    def size(self): return 1\n"
        "    class Inner:\n        @staticmethod\n        def f(): pass\n"
    )
    (tmp_path / "ajpkg" / "wants.py").write_text("import a_module_that_nobody_has\n")
    (tmp_path / "ajpkg2.py").write_text("def f(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "ajpkg"
    for name in [name for name in sys.modules if name.partition(".")[0] in ("ajpkg", "ajpkg2")]:
        del sys.modules[name]


async def test_functions_of_an_allowed_package_are_found(package: str) -> None:
    allowed = Allow(["ajpkg.*"])
    assert allowed.resolve("ajpkg.sub.deep:fit")(1) == 2
    assert await allowed.resolve("ajpkg.sub.deep:afit")(1) == 3
    assert allowed.resolve("ajpkg:fit")(1) == 2
    assert allowed.resolve("ajpkg.sub.deep:Model.fit")(1) == 4
    assert allowed.resolve("ajpkg.sub.deep:Model.make")(1) == ("Model", 1)
    assert await allowed.resolve("ajpkg.sub.deep:Model.amake")(1) == ("Model", 1)
    assert allowed.check("ajpkg.no.such:f") == ("ajpkg.no.such", "f")  # nothing is imported to say so


REFUSED_NAMES = [
    "os:system", "builtins:eval", "subprocess:call", "ajpkg2:f", "ajpkgx.y:f", "ajpkg", "ajpkg.sub.deep", "ajpkg.:f",
    ".ajpkg:f", "ajpkg..sub:f", "ajpkg:", ":f", "ajpkg:f:g", "ajpkg:f.__globals__", "ajpkg:__builtins__",
    "ajpkg.__init__:fit", "ajpkg:a.b.c", "ajpkg:<lambda>", "ajpkg:f.<locals>.g", "ajpkg/../os:system", "ajpkg:f\n",
    "ajpkg :f", "ajpkg:f()", "ajpkg:f;import os", "", "ajpkg:" + "f" * 500, "ajpkg.*:f", "AJPKG:f",
]  # fmt: skip


def test_F96_a_generator_function_is_refused_as_what_it_is(package: str) -> None:
    with pytest.raises(NotAllowed, match=r"gen is a generator function, not a plain function"):
        Allow(["ajpkg.*"]).resolve("ajpkg.sub.deep:gen")


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_F96_a_name_outside_the_list_is_refused_without_an_import(name: str) -> None:
    before = set(sys.modules)
    for ask in (Allow(["ajpkg.*"]).check, Allow(["ajpkg.*"]).resolve):
        with pytest.raises(NotAllowed):
            ask(name)
    assert set(sys.modules) == before


REFUSED_THINGS = [
    "call", "Path", "os", "subprocess", "functools", "system", "part", "cached", "number", "gen", "agen", "Model",
    "Model.run", "Model.size", "Model.Inner", "Model.items", "Path.cwd", "os.system", "functools.partial", "fit.real",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_THINGS)
def test_F96_what_is_no_function_of_the_package_is_refused(package: str, name: str) -> None:
    with pytest.raises(NotAllowed):
        Allow(["ajpkg.*"]).resolve(f"ajpkg.sub.deep:{name}")


def test_F96_one_function_may_be_named_where_its_module_is_not_allowed(package: str) -> None:
    allowed = Allow(["ajpkg.sub.deep:call", "ajpkg.sub.deep:Model.fit", "ajpkg2:f"])
    assert allowed.resolve("ajpkg.sub.deep:call") is subprocess.call
    assert allowed.resolve("ajpkg.sub.deep:Model.fit")(1) == 4
    for name in ("ajpkg.sub.deep:fit", "ajpkg.sub.deep:Model.make", "ajpkg2:g", "ajpkg:call"):
        with pytest.raises(NotAllowed, match="is not allowed here"):
            allowed.check(name)


def test_F84_a_function_or_module_that_is_gone_is_unknown_and_not_forbidden(package: str) -> None:
    for name in ("ajpkg.sub.deep:renamed", "ajpkg.sub.gone:f", "ajpkg.sub.deep:Model.renamed", "ajpkg.sub.deep:Gone.f"):
        with pytest.raises(UnknownFunction, match=name):
            Allow(["ajpkg.*"]).resolve(name)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        Allow(["ajpkg.*"]).resolve("ajpkg.wants:f")


def test_a_function_that_was_written_after_the_import_needs_a_new_start_and_the_error_says_so(package: str) -> None:
    with pytest.raises(UnknownFunction, match=r"deep has no renamed; if it has one by now, start the service again"):
        Allow(["ajpkg.*"]).resolve("ajpkg.sub.deep:renamed")


def test_nothing_is_allowed_without_a_pattern() -> None:
    with pytest.raises(NotAllowed, match="nothing is"):
        Allow().check("json:dumps")


@pytest.mark.parametrize(
    "pattern", ["*", "", "pkg", "pkg*", "pkg.*.x", ".*", "pkg:*", "pkg.__x__.*", "pkg:f.g.h", "p k.*"]
)
def test_a_pattern_that_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(BadRequest, match="--allow takes"):
        Allow([pattern])


def test_the_words_of_a_refusal_are_bounded() -> None:
    with pytest.raises(NotAllowed) as caught:
        Allow(["ajpkg.*"]).check("x" * 10**6)
    assert len(str(caught.value)) < 2 * allow.LONGEST


# --- the lock -----------------------------------------------------------------------------

HOLDS = """
import sys
from pathlib import Path
from asyncjobs.service.errors import ServiceRunning
from asyncjobs.service.store.lock import StateLock
try:
    lock = StateLock(Path(sys.argv[1]), "/run/some.sock")
except ServiceRunning as error:
    print("lost", error, flush=True)
    sys.exit(75)
print("holds", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def contenders(path: Path, number: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that all want the lock, and whoever has it keeps it until its input ends."""
    command = [sys.executable, "-c", HOLDS, str(path)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(number)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_F79_of_twenty_that_start_at_once_one_serves_and_the_others_say_who(tmp_path: Path) -> None:
    with contenders(tmp_path / "lock", 20) as running:
        said = [(process.pid, process.stdout.readline().strip()) for process in running if process.stdout]
        (holder,) = [pid for pid, line in said if line == "holds"]
        lost = {line for pid, line in said if pid != holder}
        assert lost == {f"lost already running, pid {holder}, socket /run/some.sock"}
        assert sorted(process.wait() for process in running if process.pid != holder) == [75] * 19


@pytest.mark.slow
def test_F79_after_a_sigkill_the_next_one_has_it_at_once_and_its_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with contenders(path, 1) as (first,):
        assert first.stdout
        assert first.stdout.readline() == "holds\n"
        with pytest.raises(ServiceRunning, match=f"pid {first.pid}, ") as caught:
            StateLock(path, "x")
        assert caught.value.pid == first.pid
        first.kill()
        first.wait()
        with StateLock(path, "/run/mine.sock"), contenders(path, 1) as (late,):
            assert late.stdout
            assert late.stdout.readline() == f"lost already running, pid {os.getpid()}, socket /run/mine.sock\n"


def test_a_released_lock_is_free_and_releasing_twice_does_nothing(tmp_path: Path) -> None:
    lock = StateLock(tmp_path / "lock", "x")
    assert "held" in repr(lock)
    lock.release()
    lock.release()
    assert "released" in repr(lock)
    StateLock(tmp_path / "lock", "x").release()
