"""Progress and checkpoints of one job while it runs.

Side by side: a checkpoint waits for the destination's flush and for the store, and whoever watches
the job meanwhile, or keeps its pace, must not wait for either.
"""

from __future__ import annotations

import asyncio

import structlog

from daiko.copy_manager.checkpoint import Checkpoint
from daiko.copy_manager.error import CopyFailed
from daiko.copy_manager.execution import Execution
from daiko.copy_manager.governor import Governor
from daiko.copy_manager.running_job import RunningJob
from daiko.copy_manager.settings import CopySettings
from daiko.copy_manager.source_tracking import SourceTracking
from daiko.state.store import StoreError

log = structlog.get_logger(__name__)


async def tick(
    job: RunningJob,
    execution: Execution,
    checkpoint: Checkpoint,
    tracking: SourceTracking,
    governor: Governor,
    settings: CopySettings,
) -> None:
    """Go on until cancelled. A defect that ends it before ends the job as well: one that copied on
    without checkpoints would have to begin anew after a restart, and nobody would know."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_watch(job, governor, settings))
            group.create_task(_confirm(execution, checkpoint, tracking, settings))
    except Exception:
        log.exception("checkpoints ended by a defect", job=job.id)
        execution.fail(
            CopyFailed("a defect of this program ended the checkpoints; its log says more")
        )


async def _watch(job: RunningJob, governor: Governor, settings: CopySettings) -> None:
    while True:
        await asyncio.sleep(settings.progress_seconds)
        governor.look()
        job.tick()


async def _confirm(
    execution: Execution,
    checkpoint: Checkpoint,
    tracking: SourceTracking,
    settings: CopySettings,
) -> None:
    """A checkpoint that takes long makes the next one wait: at most a twentieth of the time goes
    into them."""
    loop = asyncio.get_running_loop()
    pause = settings.confirm_seconds
    while True:
        await asyncio.sleep(max(pause, settings.progress_seconds))
        began = loop.time()
        tracking.note()
        try:
            await checkpoint.attempt()
        except CopyFailed as failure:
            execution.fail(failure)
        except StoreError as error:
            execution.fail(CopyFailed(f"the store failed: {error}"))
        pause = max(settings.confirm_seconds, 20 * (loop.time() - began))
