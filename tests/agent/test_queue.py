"""DELs for which there was neither agent nor Python: queued on disk, and done before the next ADD is served."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

from calico_node import protocol
from cni_calico.errors import TRY_AGAIN_LATER
from datastore.file import FileStore
from tests.netns.machine import Pod

from .kit import DUAL, NOWHERE, Agent, Site, queued, wait_until

NO_PYTHON = {"CALICO_PYTHON_PLUGIN": NOWHERE}
NOBODY = 65534


def added(site: Site, count: int) -> list[Pod]:
    pods = [site.machine.pod() for _ in range(count)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pod: site.machine.add(pod, ipam=DUAL), pods))
    return pods


def test_done_before_the_first_add(site: Site) -> None:
    """An ADD that comes while the queue is being drained is answered after it."""
    pods = added(site, 20)
    assert site.machine.call("ADD", site.machine.pod(), env=NO_PYTHON).error["code"] == TRY_AGAIN_LATER
    for pod in pods:
        site.machine.delete(pod, env=NO_PYTHON)
        site.machine.delete(pod, env=NO_PYTHON)  # a runtime may ask again: it is the same file
    assert len(queued(site.queue)) == 20
    assert len(site.machine.veths()) == 20
    agent, new = site.agent(), site.machine.pod()
    with FileStore(str(site.machine.datastore)).exclusive():  # nothing is released meanwhile
        agent.launch()
        wait_until(site.socket.exists)
        adding = site.start("ADD", new, env=NO_PYTHON)
        assert site.machine.call("STATUS", None, env=NO_PYTHON).ok == {}
        wait_until(lambda: agent.status()["inFlight"] == 2)
        status = agent.status()
        assert status["delQueue"] == 20
        assert not status["ready"]
        assert status["requests"].keys() == {"STATUS"}
        assert adding.poll() is None
    new.results["eth0"] = site.finish(adding).ok
    assert queued(site.queue) == []
    assert set(site.machine.allocated().values()) == {new.container_id}
    assert len(site.machine.veths()) == 1
    site.machine.delete(new, env=NO_PYTHON)
    site.empty()


def test_an_agent_that_came_up_meanwhile(site: Site, agent: Agent) -> None:
    """With an agent nothing is queued, though there is no Python."""
    pod = site.machine.pod()
    site.machine.add(pod, env=NO_PYTHON)
    site.machine.delete(pod, env=NO_PYTHON)
    assert queued(site.queue) == []
    site.empty()


def test_a_frozen_agent_and_no_python(site: Site, agent: Agent) -> None:
    """A DEL that a frozen agent did not answer is queued, and done by the next one, however far the first had come."""
    pods = added(site, 3)
    agent.freeze()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda pod: site.machine.delete(pod, env=NO_PYTHON), pods))
    assert len(queued(site.queue)) == 3
    agent.kill()
    site.agent().start()
    site.empty()


def test_damaged_and_foreign_files(site: Site) -> None:
    """They are left as they are and told in the log; what is sound is done, and ADDs are served."""
    live, dead = added(site, 2)
    site.machine.delete(dead, env=NO_PYTHON)
    deletion = protocol.request(site.request("DEL", live, ipam=DUAL))
    bad = {"empty.del": b"", "torn.del": deletion[:-5], "random.del": os.urandom(500), "big.del": bytes((1 << 20) + 1),
           "add.del": protocol.request(site.request("ADD", live)), "more.del": deletion + deletion,
           "foreign.del": deletion,
           "ipam.del": protocol.request(site.request("DEL", live, ipam={"type": "host-local"})),
           "unknown.del": protocol.request(site.request("DEL", live, plugin="flannel"))}
    for name, content in bad.items():
        (site.queue / name).write_bytes(content)
    os.chown(site.queue / "foreign.del", NOBODY, NOBODY)
    os.mkfifo(site.queue / "fifo.del")
    (site.queue / "folder.del").mkdir()
    (site.folder / "target").write_bytes(deletion)
    (site.queue / "link.del").symlink_to(site.folder / "target")
    ignored = {".1234.tmp": deletion, ".hidden.del": deletion, "notes.txt": b"x"}
    for name, content in ignored.items():
        (site.queue / name).write_bytes(content)
    agent = site.agent().start()
    said = site.said.read_text()
    stay = {*bad, "fifo.del", "folder.del", "link.del"}
    assert set(queued(site.queue)) == stay | set(ignored)
    for name in stay:
        assert f"{site.queue}/{name}" in said, name
    assert "Traceback" not in said
    assert set(site.machine.allocated().values()) == {live.container_id}
    site.whole(live, ipam=DUAL)
    pod = site.machine.pod()
    site.machine.add(pod, env=NO_PYTHON)
    assert agent.served("ADD") == 1


def test_bounded(site: Site) -> None:
    """With so many files in it, or for too long a request, a DEL is not queued but to be tried again."""
    site.queue.mkdir(mode=0o700)
    for number in range(4096):
        (site.queue / f"{number}.del").touch()
    pod = site.machine.pod()
    assert site.machine.call("DEL", pod, env=NO_PYTHON).error["code"] == TRY_AGAIN_LATER
    (site.queue / "0.del").unlink()
    assert site.machine.call("DEL", pod, env=NO_PYTHON, padding="x" * (1 << 20)).error["code"] == TRY_AGAIN_LATER
    site.machine.delete(pod, env=NO_PYTHON)
    assert len(queued(site.queue)) == 4096


def test_a_pod_that_came_back(site: Site) -> None:
    """A DEL queued in a pod's former life does not end the one it has when the queue is drained."""
    (pod,) = added(site, 1)
    site.machine.delete(pod, env=NO_PYTHON)
    pod.netns.close()
    site.machine.pods.remove(pod)
    again = site.machine.pod(pod.container_id)
    time.sleep(0.02)  # file times are as coarse as the kernel's tick
    site.machine.add(again, ipam=DUAL)  # by the plugin: Python is back, the agent not yet
    site.agent().start()
    site.whole(again, ipam=DUAL)
    assert queued(site.queue) == []
    site.machine.delete(again)
    site.empty()


def test_what_failed_is_kept(site: Site) -> None:
    """A DEL that fails stays queued, and is done once it can be."""
    (pod,) = added(site, 1)
    site.machine.delete(pod, env=NO_PYTHON)
    lock = site.machine.datastore / ".lock"
    lock.unlink()
    lock.mkdir()  # the datastore cannot be locked
    agent = site.agent().start()
    assert len(queued(site.queue)) == 1
    assert "stays queued" in site.said.read_text()
    lock.rmdir()
    agent.stop()
    site.agent().start()
    site.empty()
