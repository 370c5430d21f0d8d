"""Shards placed by Dask or Ray: each task is one shard, worked on by a watched process where the engine puts it.

The engine only decides where a shard runs. What it does, leases, ledger, and what happens to an image that kills its
worker, is the same as on one machine; a task that is lost with its machine is placed again, and goes on from the rows
that were written. All machines must see the run folder under the same path.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustest.audit.finish import unfinished
from robustest.audit.plan import load_plan
from robustest.audit.supervise import supervise
from robustest.errors import EnvironmentFailure, InvalidSetting, MissingExtra

_ROUNDS = 3  # in a row without a shard finished, after which the engine is given up


def place(
    address: str,
    run: Path,
    *,
    model: str | None = None,
    gpus: float = 0,
    expiry: float = 30.0,
    notify: Callable[[int, int], None] | None = None,
) -> None:
    """Have an engine work on all shards of a run that are left.

    Args:
        address: `dask://host:port` or `ray://host:port`; `ray://local` starts or joins Ray on this machine.
        run: the run folder. model: where the model is on those machines, if not where the plan says.
        gpus: of each task: Dask's resource GPU, Ray's num_gpus; then each task uses `cuda:0` of those it is given.
        expiry: seconds without a sign of life after which a shard of a dead machine is taken over.
        notify: told after each task of the shards done and in all.

    Raises:
        InvalidSetting: another kind of address. MissingExtra: the engine is not installed.
        EnvironmentFailure: it cannot be reached, or places tasks that never finish.
    """
    plan = load_plan(run)
    kind, _, rest = address.partition("://")
    if kind not in ("dask", "ray") or not rest:
        raise InvalidSetting(f"--on must be dask://host:port or ray://host:port; got {address!r}.")
    engine = _Dask(rest, gpus) if kind == "dask" else _Ray(rest, gpus)
    try:
        fruitless = 0
        while left := unfinished(run, plan):
            failures = engine.run(
                left, (str(run.resolve()), model, "cuda:0" if gpus else None, expiry), lambda: _tell(run, notify)
            )
            fruitless = fruitless + 1 if len(unfinished(run, plan)) == len(left) else 0
            if fruitless >= _ROUNDS:
                last = f" The last failure: {failures[-1]}" if failures else ""
                raise EnvironmentFailure(f"{address} finishes no shard of {str(run)!r}, after {_ROUNDS} rounds.{last}")
    finally:
        engine.close()


def _tell(run: Path, notify: Callable[[int, int], None] | None) -> None:
    if notify is not None:
        plan = load_plan(run)
        notify(plan.shards - len(unfinished(run, plan)), plan.shards)


def work_on_shard(number: int, run: str, model: str | None, device: str | None, expiry: float) -> int:
    """One task: work on one shard in a watched process, waiting for a lost owner's lease to end."""
    supervise(
        Path(run), workers=1, model=model, devices=[device] if device else [], only=[number], wait=True, expiry=expiry
    )
    return number


class _Dask:
    def __init__(self, address: str, gpus: float) -> None:
        try:
            self._distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise MissingExtra("distributed", "dask", "--on dask://") from error
        try:
            self._client: Any = self._distributed.Client(f"tcp://{address}", timeout="20s", set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise EnvironmentFailure(
                f"dask://{address} cannot be reached: {error}. Is a scheduler running there?"
            ) from error
        self._resources = {"GPU": gpus} if gpus else None

    def run(self, shards: Sequence[int], common: tuple[Any, ...], tell: Callable[[], None]) -> list[str]:
        futures = [
            self._client.submit(
                work_on_shard,
                number,
                *common,
                key=f"robustest-{number}-{os.urandom(4).hex()}",
                resources=self._resources,
                retries=2,
            )
            for number in shards
        ]
        failures = []
        for future in self._distributed.as_completed(futures, loop=self._client.loop):
            if future.status != "finished":
                failures.append(str(future.exception()))
            tell()
        return failures

    def close(self) -> None:
        self._client.close()


class _Ray:
    def __init__(self, address: str, gpus: float) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise MissingExtra("ray", "ray", "--on ray://") from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=None if address == "local" else f"ray://{address}", log_to_driver=False)
            except (ConnectionError, OSError, ValueError, RuntimeError) as error:
                raise EnvironmentFailure(
                    f"ray://{address} cannot be reached: {error}. Is a Ray cluster running there?"
                ) from error
        self._task: Any = ray.remote(num_gpus=gpus, max_retries=3)(work_on_shard)

    def run(self, shards: Sequence[int], common: tuple[Any, ...], tell: Callable[[], None]) -> list[str]:
        waiting = [self._task.remote(number, *common) for number in shards]
        failures = []
        while waiting:
            done, waiting = self._ray.wait(waiting, num_returns=1)
            for reference in done:
                try:
                    self._ray.get(reference)
                except Exception as error:  # Ray raises the task's own error, in a class made for it
                    failures.append(str(error).splitlines()[-1] if str(error) else type(error).__name__)
            tell()
        return failures

    def close(self) -> None:
        if self._ours:
            with suppress(Exception):  # the cluster may be gone
                self._ray.shutdown()
