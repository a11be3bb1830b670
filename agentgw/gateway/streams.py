"""Streams that stay open: counted per agent, closed when their right to be open ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from agentgw.core.principal import Caller
from agentgw.core.refusal import Refusal


@dataclass(slots=True, eq=False)
class OpenStream:
    """One stream under way and the task that feeds it. `cut` is why it must end, once it must.

    An `open_ended` one is no call's answer and ends only when somebody ends it. `account` names the
    connected account that it uses, if any.
    """

    caller: Caller
    task: asyncio.Task[object]
    open_ended: bool
    account: str | None = None
    cut: Refusal | None = None


class OpenStreams:
    """All streams of this worker. `per_agent` bounds those of one agent; a reload may set it anew."""

    def __init__(self, per_agent: int) -> None:
        self.per_agent = per_agent
        self._streams: set[OpenStream] = set()
        self._counts: dict[str, int] = {}
        self._ended: Refusal | None = None
        self._refuse: Callable[[Caller, str | None], Refusal | None] = lambda caller, account: None

    def has_room(self, caller: Caller) -> bool:
        """Whether the caller's agent may hold one more."""
        return self._counts.get(_agent(caller), 0) < self.per_agent

    def enter(self, caller: Caller, open_ended: bool, account: str | None = None) -> OpenStream:
        """Count the current task as feeding a stream of `caller`, which uses a connected `account`."""
        task = asyncio.current_task()
        assert task is not None
        stream = OpenStream(caller, task, open_ended, account)
        self._streams.add(stream)
        agent = _agent(caller)
        self._counts[agent] = self._counts.get(agent, 0) + 1
        if open_ended and self._ended is not None:
            _cut(stream, self._ended)
        elif (reason := self._refuse(caller, account)) is not None:
            # Rights that ended while the server took its time to answer.
            _cut(stream, reason)
        return stream

    def leave(self, stream: OpenStream) -> None:
        """The stream has ended."""
        if stream in self._streams:
            self._streams.remove(stream)
            agent = _agent(stream.caller)
            left = self._counts[agent] - 1
            if left:
                self._counts[agent] = left
            else:
                del self._counts[agent]

    def cut(self, refuse: Callable[[Caller, str | None], Refusal | None]) -> None:
        """End every stream against whose caller or account `refuse` gives a reason, now or as it begins."""
        self._refuse = refuse
        for stream in list(self._streams):
            reason = refuse(stream.caller, stream.account)
            if reason is not None and stream.cut is None:
                _cut(stream, reason)

    def end(self, reason: Refusal) -> None:
        """End every open-ended stream, now and from now on: calls must not wait for them to drain."""
        self._ended = reason
        for stream in list(self._streams):
            if stream.open_ended and stream.cut is None:
                _cut(stream, reason)


def _cut(stream: OpenStream, reason: Refusal) -> None:
    stream.cut = reason
    stream.task.cancel()


def _agent(caller: Caller) -> str:
    return caller.chain[0].id if caller.chain else caller.subject.name
