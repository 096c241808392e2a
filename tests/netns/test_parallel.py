"""Many pods at once: every address once, nothing lost, nothing left."""

from __future__ import annotations

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from cni_calico.errors import NO_ADDRESS

from .machine import Json, Machine, Pod

DUAL = {"assign_ipv6": "true"}


def test_two_hundred_adds_at_once(machine: Machine) -> None:
    """200 parallel ADDs give 200 addresses of each family; 200 parallel DELs leave nothing."""
    pods = [machine.pod() for _ in range(200)]
    with ThreadPoolExecutor(200) as pool:
        list(pool.map(lambda pod: machine.add(pod, ipam=DUAL), pods))
    given = [address for pod in pods for address in pod.addresses()]
    assert len(set(given)) == 400
    assert machine.allocated() == {address: pod.container_id for pod in pods for address in pod.addresses()}
    for pod in random.Random(1).sample(pods, 10):
        assert machine.check(pod, ipam=DUAL).ok == {}
        assert pods[0].netns.pings(pod.addresses()[0])
    with ThreadPoolExecutor(200) as pool:
        list(pool.map(lambda pod: machine.delete(pod, ipam=DUAL), pods))
    assert machine.left() == []


def test_more_pods_than_addresses(machine: Machine) -> None:
    """Of 24 parallel ADDs in a pool of 16 addresses 16 succeed; the others say why and leave nothing."""
    env = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/28", "CALICO_IPV4POOL_BLOCK_SIZE": "30"}
    pods = [machine.pod() for _ in range(24)]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda pod: machine.call("ADD", pod, env=env), pods))
    assert Counter(answer.code for answer in answers) == {0: 16, 1: 8}
    for answer in answers:
        if answer.code:
            assert answer.error["code"] == NO_ADDRESS
            assert "16 of 16" in answer.error["msg"]
    assert len(machine.allocated()) == len(machine.veths()) == 16


def test_the_same_pod_added_many_times_at_once(machine: Machine) -> None:
    """Of ten parallel ADDs of one pod one succeeds, and its address and wire stay whole.

    Where an agent was killed between its answer and hearing that it was taken, the next ADD does it anew.
    """
    pod = machine.pod()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: machine.call("ADD", pod), range(10)))
    won = [answer.ok for answer in answers if answer.code == 0]
    assert len(won) == 1 or (machine.verbs_are_killed and won)
    held = list(machine.allocated())
    standing = [result for result in won if [ip["address"].partition("/")[0] for ip in result["ips"]] == held]
    assert len(standing) == 1
    pod.results["eth0"] = standing[0]
    assert machine.check(pod).ok == {}
    machine.delete(pod)
    assert machine.left() == []


def test_add_and_del_of_one_pod_at_once(machine: Machine) -> None:
    """DELs that run while the ADD of the same pod does leave all of it or nothing, and a last DEL nothing (rule R2)."""
    for _ in range(8):
        pod = machine.pod()
        with ThreadPoolExecutor(4) as pool:
            adding = pool.submit(machine.call, "ADD", pod)
            deletes = [pool.submit(machine.call, "DEL", pod) for _ in range(3)]
            assert all(delete.result().ok == {} for delete in deletes)
            assert adding.result().code == 0
        assert len(machine.veths()) == len(machine.allocated())
        machine.delete(pod)
        assert machine.left() == []


def test_everything_mixed(machine: Machine) -> None:
    """Pods that come, are checked and go from 12 workers, with GC and STATUS between: each lives as it should."""
    everybody: dict[str, Json] = {}

    def life(number: int) -> None:
        dice = random.Random(number)
        for _ in range(6):
            pod = machine.pod()
            everybody[pod.container_id] = {"containerID": pod.container_id, "ifname": "eth0"}
            machine.add(pod, ipam=DUAL if dice.random() < 0.5 else {})
            if dice.random() < 0.7:
                assert machine.check(pod).ok == {}
            if dice.random() < 0.8:
                machine.delete(pod)
                if dice.random() < 0.5:
                    machine.delete(pod, netns="")
            pod.netns.pings(pod.addresses()[0])

    def collect(_: int) -> None:
        # Whoever may exist is in the list: GC must harm none of them.
        ghost = machine.pod()
        machine.add(ghost, name="other")
        listed = json.loads(json.dumps(list(everybody.values())))
        assert machine.call("STATUS", None).ok == {}
        assert collected(machine, listed, "other") == {}

    with ThreadPoolExecutor(16) as pool:
        lives = [pool.submit(life, number) for number in range(12)]
        others = [pool.submit(collect, number) for number in range(6)]
        for future in (*lives, *others):
            future.result()
    alive = {pod.container_id: pod for pod in machine.pods if "eth0" in pod.results}
    holders = Counter(machine.allocated().values())
    assert set(holders) <= set(alive)
    for container_id in holders:
        if container_id in everybody:
            assert machine.check(alive[container_id]).ok == {}
    assert collected(machine, [], "net") == {}
    assert collected(machine, [], "other") == {}
    assert machine.left() == []


def collected(machine: Machine, valid: list[Json], network: str) -> Json:
    conf: Json = {"cni.dev/valid-attachments": valid, "name": network}
    return machine.call("GC", None, **conf).ok


def test_gc_beside_adds_in_progress(machine: Machine) -> None:
    """GC with an empty list, run all the time while pods are added, breaks no ADD half-way: each is whole or gone."""

    def add(pod: Pod) -> int:
        answer = machine.call("ADD", pod)
        assert answer.code == 0, answer.body
        return answer.code

    pods = [machine.pod() for _ in range(20)]
    with ThreadPoolExecutor(6) as pool:
        adding = [pool.submit(add, pod) for pod in pods]
        while not all(future.done() for future in adding):
            collected(machine, [], "net")
        assert [future.result() for future in adding] == [0] * 20
    assert len(machine.veths()) == len(machine.allocated())
    collected(machine, [], "net")
    assert machine.left() == []
