"""A device that has nothing else to do begins a task at once: nothing waits for a periodic look."""

from __future__ import annotations

import pytest
from support.task_mesh import RUN_US, SECOND_US, TaskMesh

SLACK_US = 50_000  # messages, disk writes and ticks; a review comes once a second


@pytest.mark.parametrize("hosts_count", [1, 3])
def test_tasks_submitted_one_after_another_take_no_longer_than_they_run(hosts_count: int) -> None:
    mesh = TaskMesh(hosts_count)
    mesh.start()
    for number in range(6):
        begun_us = mesh.now_us
        accepted = mesh.submit(mesh.hosts[0], 1)
        (view,) = mesh.finish(mesh.hosts[0], accepted, 10 * SECOND_US)
        assert view.state == "settled"
        assert mesh.now_us - begun_us < RUN_US + SLACK_US, f"task {number}"
