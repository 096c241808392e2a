"""Many at once: requests that hang hold up nobody, and other processes use the same store meanwhile."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from cni_calico.args import Attachment
from datastore.file import FileStore
from tests.netns.machine import Pod

from .kit import DUAL, NOWHERE, Agent, Site, seeded, wait_until

ONLY_AGENT = {"CALICO_PYTHON_PLUGIN": NOWHERE}
HUNG = 30


@contextmanager
def hanging(site: Site, agent: Agent) -> Iterator[list[Pod]]:
    """Have many requests hang: DELs of attachments that somebody holds, and ADDs whose launchers do not say TAKEN."""
    store, pods = FileStore(str(site.machine.datastore)), [site.machine.pod() for _ in range(2 * HUNG)]
    with ExitStack() as held:
        clients = []
        for number, pod in enumerate(pods):
            client = held.enter_context(agent.client())
            verb = "ADD" if number % 2 else "DEL"
            if verb == "DEL":
                name = Attachment("net", pod.container_id, "eth0").host_ifname
                held.enter_context(store.hold(name, 0))
            client.send(site.request(verb, pod), pod.netns.fd)
            clients.append(client)
        for client in clients[1::2]:
            assert client.answer().code == 0
        wait_until(lambda: agent.status()["inFlight"] == len(pods) + 1)
        yield pods


def test_those_that_hang_hold_up_nobody(site: Site, agent: Agent) -> None:
    """With 60 requests that hang, pods come and go, STATUS is answered, and a GC is done."""
    with hanging(site, agent):
        pods = [site.machine.pod() for _ in range(10)]
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda pod: site.machine.add(pod, env=ONLY_AGENT), pods))
            for pod in pods:
                assert site.machine.call("STATUS", None, env=ONLY_AGENT).ok == {}
                site.whole(pod, env=ONLY_AGENT)
            list(pool.map(lambda pod: site.machine.delete(pod, env=ONLY_AGENT), pods))
        assert agent.status()["inFlight"] == 2 * HUNG + 1
    wait_until(lambda: agent.status()["inFlight"] == 1)
    site.empty()


def test_status_while_a_lock_is_held(site: Site, agent: Agent) -> None:
    """While somebody keeps the datastore's lock and ADDs wait for it, STATUS answers all the same."""
    pods = [site.machine.pod() for _ in range(20)]
    site.machine.add(pods[0])
    with FileStore(str(site.machine.datastore)).exclusive():
        started = [site.start("ADD", pod, env=ONLY_AGENT) for pod in pods[1:]]
        wait_until(lambda: agent.status()["inFlight"] == 20)
        for _ in range(5):
            assert site.machine.call("STATUS", None, env=ONLY_AGENT).ok == {}
        assert all(process.poll() is None for process in started)
    assert [site.finish(process).code for process in started] == [0] * 19
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(site.machine.delete, pods))
    site.empty()


def test_the_same_pod_at_once(site: Site, agent: Agent) -> None:
    """Of ten ADDs of one pod one succeeds; of ten DELs all do; of ADDs and DELs each is whole."""
    pod = site.machine.pod()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: site.machine.call("ADD", pod), range(10)))
        won = [answer.ok for answer in answers if answer.code == 0]
        assert len(won) == 1
        pod.results["eth0"] = won[0]
        site.whole(pod)
        list(pool.map(lambda _: site.machine.delete(pod), range(10)))
        site.empty()
        for _ in range(3):
            adding = [pool.submit(site.machine.call, "ADD", pod) for _ in range(3)]
            deleting = [pool.submit(site.machine.delete, pod) for _ in range(3)]
            assert 0 in [each.result().code for each in adding]
            assert [each.result() for each in deleting] == [None] * 3
            assert len(site.machine.veths()) == len(site.machine.allocated())
            site.machine.delete(pod)
    assert agent.served("ADD") == 19
    site.empty()


def test_other_processes_use_the_same_store(site: Site, agent: Agent) -> None:
    """200 assignments from the agent, the plugin and calico-ipam at once: no address twice, and all are given back."""
    dice = seeded("mixed")
    ways = [("calico", {}), ("calico", {"CALICO_CNI_SOCKET": "/nonexistent"}), ("calico-ipam", {}),
            ("calico-ipam", {"CALICO_CNI_SOCKET": "/nonexistent"})]
    pods = [(site.machine.pod(), *ways[0 if number < 80 else dice.randrange(4)]) for number in range(200)]
    dice.shuffle(pods)
    given: list[str] = []
    lock = threading.Lock()

    def live(what: tuple[Pod, str, dict[str, str]]) -> None:
        pod, plugin, env = what
        own = random.Random(pod.container_id)
        for _ in range(own.randrange(2)):
            assert site.machine.call("ADD", pod, plugin=plugin, env=env, ipam=DUAL).code == 0
            site.machine.delete(pod, plugin=plugin, env=env)
        result = site.machine.add(pod, plugin=plugin, env=env, ipam=DUAL)
        with lock:
            given.extend(ip["address"].partition("/")[0] for ip in result["ips"])

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(live, pods))
        assert [address for address, count in Counter(given).items() if count > 1] == []
        assert set(site.machine.allocated()) == set(given)
        assert len(given) == 400
        site.sound()
        list(pool.map(lambda what: site.machine.delete(what[0], plugin=what[1], env=what[2]), pods))
    assert agent.served("ADD") >= 80
    site.empty()


def pool_of(name: str, cidr: str, disabled: bool) -> str:
    return json.dumps({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
                       "spec": {"cidr": cidr, "blockSize": 29, "disabled": disabled}})


def test_nothing_is_remembered_between_requests(site: Site, agent: Agent) -> None:
    """What calicoctl changes counts for the next ADD: pools, and addresses released."""
    site.machine.env["NO_DEFAULT_POOLS"] = "true"

    def apply(name: str, cidr: str, disabled: bool) -> None:
        done = site.calicoctl("apply", "-f", "-", stdin=pool_of(name, cidr, disabled))
        assert done.returncode == 0

    def added(number: str) -> str:
        pod = site.machine.pod()
        site.machine.add(pod, env=ONLY_AGENT)
        assert pod.addresses()[0].startswith(number), pod.addresses()
        return pod.addresses()[0]

    apply("one", "10.71.0.0/24", disabled=False)
    first = added("10.71.0.")
    apply("one", "10.71.0.0/24", disabled=True)
    apply("two", "10.72.0.0/29", disabled=False)
    others = [added("10.72.0.") for _ in range(8)]
    assert site.machine.call("ADD", site.machine.pod(), env=ONLY_AGENT).error["code"] == 101
    gone = next(pod for pod in site.machine.pods if pod.results.get("eth0") and pod.addresses() == [others[3]])
    gone.netns.close()  # its DEL never comes
    wait_until(lambda: len(site.machine.veths()) == 8)
    site.calicoctl("ipam", "release", f"--ip={others[3]}")
    assert added("10.72.0.") == others[3]
    apply("one", "10.71.0.0/24", disabled=False)
    assert added("10.71.0.") != first
    assert agent.served("ADD") == 12
    for pod in site.machine.pods:
        if pod is not gone:
            site.machine.delete(pod, env=ONLY_AGENT)
    site.machine.delete(gone, netns="", env=ONLY_AGENT)
    site.empty()
