"""How processes meet, agree and hear of each other's end; here they are threads or small programs without a device."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from mru.training import devices, meeting, peers
from mru.training.messages import UserError
from mru.training.sections import DistributedConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def address():
    """One that was free just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(meeting, "START", 1.0)


def together(*calls):
    """What each call returns or raises, all made at once."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(*call) for call in calls]
    return [future.exception() or future.result() for future in futures]


def closed(links):
    for link in links:
        link.close()


def test_processes_meet_in_any_order_and_leave_the_address_free(address):
    def late():
        time.sleep(0.4)
        visit(address, b"GET / HTTP/1.1\r\n\r\n")  # a stranger, as where ports are scanned
        return meeting.meet(address, 3, 2)

    zero, one, two = together((meeting.meet, address, 3, 0), (meeting.meet, address, 3, 1), (late,))
    try:
        assert [link.there.number for link in zero] == [1, 2]
        assert [link.there.number for link in one + two] == [0, 0]
        assert {link.there.pid for link in zero + one + two} == {os.getpid()}
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            pass  # where JAX's service listens next
    finally:
        closed(zero + one + two)


def visit(address, text):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(text)


@pytest.mark.parametrize(
    ("members", "parts"),
    {
        "nobody listens": ([(2, 1)], ["process 1 waited 1 s in vain for process 0 at", "Connection refused"]),
        "nobody comes": ([(3, 0)], ["in vain for 2 of 3 processes, the first of them number 1"]),
        "a number twice": ([(3, 0), (3, 1), (3, 1)], ["same number", f"process 1 ({socket.gethostname()}, pid "]),
        "other counts": ([(3, 0), (2, 1)], ["there are 3 processes for process 0, and 2 for process 1 ("]),
    }.values(),
)
def test_processes_that_can_not_meet_all_say_why(address, impatient, members, parts):
    errors = together(*((meeting.meet, address, *member) for member in members))
    for error in errors:
        assert isinstance(error, UserError)
        assert len(str(error)) < 280
        assert all(part in str(error) for part in parts)
    assert len(set(map(str, errors))) == 1


def test_an_address_that_is_in_use_or_of_no_host(address, impatient):
    with socket.create_server(("", int(address.rpartition(":")[2]))):
        with pytest.raises(UserError, match=rf"process 0 can not listen at {address} \(Address already in use\)"):
            meeting.meet(address, 2, 0)
        with pytest.raises(UserError, match=r"in vain .*something answers, but not process 0"):
            meeting.meet(address, 2, 1)
    with pytest.raises(UserError, match=r"process 0 at nowhere\.invalid:1 \(.*\); start process 0 there"):
        meeting.meet("nowhere.invalid:1", 2, 1)


def test_a_process_that_was_started_again_takes_its_place(address):
    def again():
        time.sleep(0.2)
        visit(address, json.dumps([meeting.HELLO, [3, 1, "host", 1]]).encode() + b"\n")
        time.sleep(0.2)
        return meeting.meet(address, 3, 1)

    def third():
        time.sleep(1)
        return meeting.meet(address, 3, 2)

    links = together((meeting.meet, address, 3, 0), (again,), (third,))
    assert [len(found) for found in links] == [2, 1, 1]
    assert links[0][0].there.pid == os.getpid()
    for found in links:
        closed(found)


@pytest.fixture
def three():
    """The links of three processes to a hub, by which what it tells is read."""
    pairs = [meeting.pair(meeting.Peer(number, "host", 10 + number)) for number in range(3)]
    hub = peers._Hub([theirs for _, theirs in pairs])
    yield [ours for ours, _ in pairs]
    closed(ours for ours, _ in pairs)
    hub.join(5)
    assert not hub.is_alive()


def told(link, seconds=4):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if meeting.ready([link], 0.1):
            for message in link.received():
                return message
    raise AssertionError("nothing was told")


def test_all_hear_the_same_error(three):
    for errors, agreed in (
        ([None, None, None], None),
        (["broken", "broken", "broken"], "broken"),
        ([None, "no folder", "no file"], "process 1 (host, pid 11): no folder"),
    ):
        for link, error in zip(three, errors):
            link.send("vote", error)
        assert [told(link) for link in three] == [("agreed", agreed)] * 3


@pytest.mark.parametrize(
    ("end", "why"),
    {
        "killed": (lambda link: link.close(), "died without a word (killed, or out of memory?)"),
        "failed": (lambda link: link.send("fail", "no memory"), "ended with: no memory"),
        "stopped": (lambda link: None, "has been silent for 1 s"),
    }.values(),
)
def test_all_hear_who_is_lost_and_why(three, monkeypatch, end, why):
    monkeypatch.setattr(meeting, "BEAT", 0.1)
    monkeypatch.setattr(peers, "HEARTBEAT", 1.0)
    end(three[1])
    until = time.monotonic() + 4
    while time.monotonic() < until and not meeting.ready([three[0]], 0.1):
        for link in (three[0], three[2]):
            link.beat()
    for link in (three[0], three[2]):
        assert told(link) == ("lost", f"process 1 (host, pid 11) {why}")


def test_those_that_part_are_not_lost(three):
    for link in three:
        link.send("leave")
        link.close()


KEEPER = """
import os, signal, socket, sys
from mru.training import keeper
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
print(port, flush=True)
first, _ = server.accept()
earlier = keeper.connections(port)
second, _ = server.accept()
keeper.keep(keeper.connections(port) - earlier)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").is_dir(), reason="open files are found in /proc")
def test_connections_outlive_a_killed_process_for_a_moment():
    process = subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as lost:
            time.sleep(0.2)
            with socket.create_connection(("127.0.0.1", port)) as kept:
                assert lost.recv(1) == b""
                kept.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    kept.recv(1)
                kept.settimeout(10)
                assert kept.recv(1) == b""
    assert process.returncode == -signal.SIGKILL


STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[07-09]", "SLURM_PROCID": "2", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({"SLURM_NTASKS": "2"}, ["SLURM_NTASKS = 2", "start it with srun", "or unset SLURM_NTASKS"]),
        ({"SLURM_NTASKS": "two"}, ["SLURM_NTASKS = 'two', allowed: an integer", "srun"]),
        ({"SLURM_NTASKS": "2", **STEP, "SLURM_PROCID": "x"}, ["SLURM_NTASKS = 2", "start it with srun"]),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ["OMPI_COMM_WORLD_SIZE = 2", "start it with mpirun"]),
        ({"OMPI_COMM_WORLD_SIZE": ""}, ["OMPI_COMM_WORLD_SIZE = '', allowed: an integer", "mpirun"]),
    ],
)
def test_an_environment_that_does_not_say_enough(monkeypatch, variables, parts):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as raised:
        devices.start_processes(DistributedConfig())
    assert len(str(raised.value)) < 290
    assert all(part in str(raised.value) for part in parts)


def test_processes_of_slurm_are_found(monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", **STEP}.items():
        monkeypatch.setenv(name, value)
    joined, started = [], []
    monkeypatch.setattr(peers, "join", lambda *args: joined.append(args))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: started.append(args))
    devices.start_processes(DistributedConfig())
    assert joined == [("node07:61447", 4, 2)]  # the port is 61440 and the number of the job
    assert started == [("node07:61447", 4, 2, [1])]
    monkeypatch.setenv("SLURM_NTASKS", "1")
    devices.start_processes(DistributedConfig())
    assert len(started) == 1
