"""Any mixture of task attributes, aborts, losses and completions against the rules of SAM-5, 8.

The machine sends tasks of two hosts, lets the device answer in any order, and aborts. At every
moment: no task is at the device that has an older barrier in the set, no ORDERED task is there
with anything older, and each task is answered exactly once.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daiko.iscsi.bhs import TaskManagementFunction
from daiko.scsi import sbc
from daiko.scsi.opcode import Status
from daiko.target.access import Access
from daiko.target.task import TaskAttribute
from target.fake import FakeTask, Host, SlowDevice, unit_of

SIMPLE, ORDERED = TaskAttribute.SIMPLE, TaskAttribute.ORDERED
HEAD = TaskAttribute.HEAD_OF_QUEUE


class TaskOrder(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.device = SlowDevice(4096)
        self.unit = unit_of(self.device)
        self.access = Access()
        self.access.publish({"*": {0: self.unit}})
        self.hosts = [Host(self.access, f"iqn.a:{n}", n) for n in range(2)]
        self.sent: list[FakeTask] = []
        self.aborts: list[list[int]] = []
        self.losses = 0

    @rule(host=st.integers(0, 1), attribute=st.sampled_from([SIMPLE, SIMPLE, ORDERED, HEAD]))
    def send(self, host: int, attribute: TaskAttribute) -> None:
        # The LBA is the task's number: what is at the device can be told by it.
        cdb = sbc.Write16.pack(lba=len(self.sent), transfer_length=1)
        self.sent.append(self.hosts[host].start(cdb, bytes(512), attribute=attribute))

    @rule(pick=st.integers(0, 1 << 30))
    @precondition(lambda self: self.device.requests)
    def answer(self, pick: int) -> None:
        requests = self.device.requests
        requests.insert(0, requests.pop(pick % len(requests)))
        self.device.step()

    @rule(pick=st.integers(0, 1 << 30))
    @precondition(lambda self: self.sent)
    def abort(self, pick: int) -> None:
        task = self.sent[pick % len(self.sent)]
        host = next((each for each in self.hosts if each.nexus is task.nexus), None)
        if host is not None:
            self.aborts.append(host.manage(TaskManagementFunction.ABORT_TASK, tag=task.tag))

    @rule(host=st.integers(0, 1))
    def lose(self, host: int) -> None:
        self.access.nexus_lost(self.hosts[host].nexus)
        self.losses += 1
        self.hosts[host] = Host(self.access, f"iqn.a:{host}", 100 + self.losses)

    @invariant()
    def no_barrier_is_passed(self) -> None:
        begun = [task for task in self.sent if task.fetched is not None and not task.answers]
        assert len(begun) == len(self.device.requests)
        for task in begun:
            older = self.sent[: self.sent.index(task)]
            older_left = [each for each in older if not each.answers]
            if task.attribute == ORDERED:
                newer_heads = [each for each in begun if each.attribute == HEAD]
                assert set(begun) <= {task, *newer_heads}
                assert all(each.attribute == HEAD for each in older_left)
            elif task.attribute == SIMPLE:
                assert not any(each.attribute in (ORDERED, HEAD) for each in older_left)

    def teardown(self) -> None:
        while self.device.requests:
            self.device.step()
        assert all(task.answers == 1 for task in self.sent)
        assert all(task.status in (None, Status.GOOD) for task in self.sent)
        assert all(len(responses) == 1 for responses in self.aborts)
        assert not self.unit.task_set.is_gated
        assert not self.unit.task_set.is_watched


TaskOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTaskOrder = TaskOrder.TestCase
