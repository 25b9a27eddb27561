"""Make attempts of claims: open their seals, read their terms, write the order for the worker. `Drafter`.

Starts nothing.
"""

from __future__ import annotations

import asyncio
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from asyncjobs.lanes.base import Plan
from asyncjobs.options import make_options
from asyncjobs.runner import Runner
from asyncjobs.service import envelope
from asyncjobs.service.protocol import Terms
from asyncjobs.service.records import NEAR, Claim
from asyncjobs.service.work.attempt import Attempt
from asyncjobs.service.work.far import perform_far
from asyncjobs.service.work.joblog import JobLog
from asyncjobs.service.work.news import News
from asyncjobs.service.work.orders import Order
from asyncjobs.service.work.performing import perform
from asyncjobs.wire.codec import Payload

KINDS = 256
"""Kinds of calls that are remembered with their pace."""


class Drafter:
    """What one engine makes attempts with."""

    def __init__(
        self,
        runner: Runner,
        key: bytes,
        folder: Path,
        news: News,
        loop: asyncio.AbstractEventLoop,
        patterns: tuple[str, ...],
    ) -> None:
        self._runner = runner
        self._patterns = patterns
        self._key = key
        self._logs = folder / "logs" / "jobs"
        self._figures = f"{folder / 'figures'}/"
        self._news = news
        self._loop = loop
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
        self._terms: OrderedDict[bytes, Terms] = OrderedDict()
        self._decode = msgspec.json.Decoder(Terms).decode

    def call_of(self, claim: Claim) -> bytes:
        """The call; its seal is this service's.

        Raises:
            NotAllowed: it is not: somebody changed the database.
        """
        return envelope.open(self._key, claim.id, claim.payload)

    def seal(self, job: str, body: bytes) -> bytes:
        """An outcome, so that only who has the key can have made it."""
        return envelope.seal(self._key, job, body)

    def results_of(self, claim: Claim, sealed: Mapping[str, bytes]) -> dict[str, bytes]:
        """The outcomes of those that it comes after.

        Raises:
            NotAllowed: a seal is wrong.
        """
        return {parent: envelope.open(self._key, parent, sealed[parent]) for parent in claim.after if parent in sealed}

    def terms_of(self, claim: Claim) -> Terms:
        """Its options."""
        terms = self._terms.get(claim.terms)
        if terms is None:
            terms = self._terms[claim.terms] = self._decode(claim.terms)
            if len(self._terms) > KINDS:
                self._terms.popitem(last=False)
        return terms

    def attempt(self, claim: Claim, terms: Terms, call: bytes, results: dict[str, bytes]) -> Attempt:
        """The attempt, to be admitted.

        Raises:
            ValueError: an option is not allowed.
            ArenaFull: the call is larger than the memory that there is for all.
        """
        fence, figures = claim.fence, self._figures + claim.id
        about = claim.id, claim.name, claim.attempt, claim.epoch, fence, claim.function
        order = Order(*about, call, results, claim.checkpoint, figures, terms.max_result, claim.at_most_once)
        attempt = Attempt(claim, terms, self._open_log, self._news, self._loop)
        is_near = claim.lane == NEAR
        payload = Payload(order.encode() if is_near else pickle.dumps((tuple(order), self._patterns), 5))
        function = perform if is_near else perform_far
        attempt.job = self._runner._intake.draft(function, self._plan(claim, terms), (), {}, attempt, payload)
        attempt.job._call.attempt = claim.attempt  # to the runner each is a first one
        return attempt

    def _open_log(self, job: str) -> JobLog:
        return JobLog(self._logs, job)

    def _plan(self, claim: Claim, terms: Terms) -> Plan:
        """One for each function and set of options: it remembers how long such calls take."""
        key = (claim.lane, claim.function or claim.name, terms.timeout, terms.grace)
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            return plan
        options = make_options({"lane": claim.lane, "name": key[1], "timeout": terms.timeout, "grace": terms.grace})
        plan = self._plans[key] = self._runner._intake.plan(perform if claim.lane == NEAR else perform_far, options)
        plan.marks = True
        if len(self._plans) > KINDS:
            self._plans.popitem(last=False)
        return plan
