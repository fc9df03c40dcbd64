"""Submits an execution to its ComfyUI: inputs, policy, the request, and handling of rejections."""

from __future__ import annotations

import logging
import time
from typing import Any

from django.conf import settings

from comfyserve import secret_box
from comfyserve.db import connections
from comfyui import Refused, Submitted, Unreachable
from workflows.fleet import registry
from workflows.graph import advice, comfyui_errors, input_files, model_usage, node_info, node_policy, parsing
from workflows.graph.comfyui_errors import Fault
from workflows.models import FailureCause, Level, Status
from workflows.queue import claims, partner_keys
from workflows.queue.execution_log import Line

from . import fatal_uploads, input_transfer
from .attempt import Attempt, Ended, Gone, NoLongerWanted

logger = logging.getLogger(__name__)

FAILURES_BEFORE_BLAME = (
    3  # number of tries answered with 500 or a proxy's 413 after which the graph is to blame
)
STATUS_SECONDS = 1.0  # ComfyUI announces its longer queue to every socket within this time after a submission


# After FAILURES_BEFORE_BLAME tries; ComfyUI answered other requests meanwhile, so the graph is the cause.
_REFUSED_BY = {
    500: Fault(
        "ComfyUI cannot read the workflow (it responded with 500)",
        {"type": "unreadable", "node_errors": {}},
        cause=FailureCause.UNREADABLE,
    ),
    413: Fault(
        "The workflow is larger than the proxy in front of ComfyUI accepts (it answered 413)",
        {"type": "too_large", "node_errors": {}},
        cause=FailureCause.REFUSED,
    ),
}


class Submitter(Attempt):
    """Submits the prompt to ComfyUI, or finds it there."""

    def _submit_or_rejoin(self) -> Ended | Gone | None:
        """Submit it to ComfyUI, or find it there. None: it is there, follow it."""
        claim = self.claim
        adopted = claim.taken_at is None
        if not adopted and claim.attempt == 1:
            return self._post()
        try:
            where = self._client.whereabouts(self._id)
            if adopted and claim.posted_at is not None:
                return self._rejoin(where)
            if where == "ended":
                self._client.delete_history(self._id)  # from an earlier attempt; not to be mistaken for ours
        except Unreachable as exc:
            return self._requeue_after_fault("ComfyUI does not respond", exc)
        if where in ("running", "queued"):
            self._log_line(Line("An earlier attempt is still in ComfyUI and is followed"))
            return None if self._mark_submitted() else self._release_lost_claim()
        return self._post()

    def _rejoin(self, where: str) -> Gone | None:
        """An earlier process of this worker posted it: rejoin the run."""
        if where == "unknown":
            running = self.claim.status == Status.RUNNING
            return self._requeue("ComfyUI was restarted and lost it", fault=running)
        self._log_line(
            Line("Found in ComfyUI and joined" if where != "ended" else "Found finished in ComfyUI")
        )
        if where != "ended":
            self._receive_events_of_poster()
        if self.claim.status == Status.RUNNING:
            self._mark_begun()
        self._last_event_at = 0.0  # poll at once
        return None

    def _receive_events_of_poster(self) -> None:
        """ComfyUI sends events to the client id that posted the prompt: listen as the earlier process too."""
        try:
            state = self._client.queue()
        except Unreachable as exc:
            logger.warning("execution %s is followed without events: %s", self._id, exc)
            return
        ids = {item.client_id for item in [*state.running, *state.pending] if item.prompt_id == self._id}
        for client_id in ids - {None, self._backend.session.client_id}:
            self._poster_session = self._backend.session.also_as(str(client_id))

    def _mark_submitted(self) -> bool:
        return self._retry_until_available(
            lambda: claims.mark_submitted(self.claim, boot_id=self._backend.boot_id)
        )

    def _prepare(self) -> parsing.Prompt | Gone:
        """Transfer its input files to ComfyUI; return the prompt with the names they have there."""
        try:
            if self._backend.fatal_uploads.is_suspect(self._id):
                self._wait_until_idle()
            with self._backend.suspects.handling(self.claim, alive=self._check_still_wanted):
                prepared = input_transfer.prepare(
                    self.claim, backend=self._backend, alive=self._check_still_wanted
                )
            self._backend.fatal_uploads.clear(self._id)
            return prepared
        except input_transfer.InputRefused as exc:
            return self._fail(exc.fault)
        except input_transfer.TemporaryFailure as exc:
            return self._requeue(str(exc), hold=True, fault=exc.interrupted and self._upload_was_fatal())
        except NoLongerWanted:
            if self._abandoned.is_set():
                return self._release_lost_claim()
            return self._requeue(self._why_returned())

    def _wait_until_idle(self) -> None:
        until = time.monotonic() + fatal_uploads.LONGEST_WAIT
        while (self._backend.present or self._backend.uncollected) and time.monotonic() < until:
            self._check_still_wanted()
            self._pause(fatal_uploads.CHECK_SECONDS)

    def _upload_was_fatal(self) -> bool:
        """Whether ComfyUI died of an input of this execution, and of nothing that ran meanwhile."""
        if self._client.ping():
            return False
        self._backend.fatal_uploads.record_death(self._id)
        return not self._backend.present or self.claim.tries + 1 >= fatal_uploads.TRIES

    def _check_still_wanted(self) -> None:
        self.alive_at = time.monotonic()
        if self._abandoned.is_set() or self._requeue_wanted.is_set() or self._stop_at is not None:
            raise NoLongerWanted

    def _denied(self) -> Fault | None:
        """Check the policy again: it may have changed, and only now is it known which ComfyUI runs it."""
        backend, prompt = self._backend, self.claim.prompt

        def judge() -> list[tuple[str, str]]:
            policy = node_policy.Policy(user_id=self.claim.user_id, confines=backend.has_bridge)
            return list(policy.denials(prompt, backend.node_classes))

        denials = self._retry_until_available(judge)
        if not denials:
            return None
        node_id, sentence = denials[0]
        details = {"type": "node_not_allowed", "message": sentence, "node_id": node_id, "node_errors": {}}
        return Fault(sentence, details, cause=FailureCause.REFUSED)

    def _extra_data(self, prepared: parsing.Prompt) -> dict[str, Any] | None:
        """The user's extra data and partner keys, plus what the bridge needs: whose folders these are, which
        inputs may be read, the workflow to embed in files as metadata, and time limits. None if nothing.
        """
        given = {**(self.claim.extras.get("extra_data") or {}), **self._partner_keys()}
        if not self._backend.has_bridge:
            return given or None
        inputs = input_transfer.placed_for(self.claim, prepared)
        workflow = input_files.as_given(self.claim.prompt)
        own = {"mark": self.claim.mark, "inputs": inputs, "workflow": workflow, "limits": self._limits()}
        return {**given, "comfyserve": own}

    def _partner_keys(self) -> dict[str, str]:
        try:
            return partner_keys.decrypt(self.claim.extras)
        except secret_box.Unreadable:
            text = "The keys for partner services can no longer be decrypted (SECRET_KEY was changed)"
            self._log_line(Line(f"{text} and are not sent", Level.WARNING))
            return {}

    def _limits(self) -> dict[str, float]:
        """Times in seconds after which the bridge restarts a hung ComfyUI."""
        return {
            "run_seconds": self.claim.timeout_minutes * 60.0,
            "stop_seconds": settings.HANG_SECONDS,
            "silent_seconds": min(settings.STALL_SECONDS, 2 * settings.HANG_SECONDS),
        }

    def _post(self) -> Ended | Gone | None:
        denied = self._denied()
        if denied is not None:
            return self._fail(denied)
        prepared = self._prepare()
        if isinstance(prepared, Gone):
            return prepared
        if not self._mark_submitted():
            return self._release_lost_claim()
        classes = self._classes()
        prompt = parsing.mark_outputs(
            advice.with_separators(prepared, classes),
            outputs=self._backend.output_nodes(self.claim.prompt),
            mark=self.claim.mark,
        )
        # ComfyUI's last queue message may predate what another thread has just posted.
        self._next_in_queue = not self._backend.session.queue_remaining and not self._backend.present
        self._backend.present.add(self._id)
        self._posted_at = time.monotonic()
        try:
            submitted = self._client.submit(
                prompt=prompt,
                prompt_id=self._id,
                client_id=self._backend.session.client_id,
                extra_data=self._extra_data(prepared),
                partial_execution_targets=self.claim.extras.get("partial_execution_targets"),
            )
        except Refused as refused:
            if self.claim.tries + 1 < input_transfer.MAX_TRIES and input_transfer.were_deleted(
                refused, self.claim, prepared, backend=self._backend
            ):
                return self._requeue("an input was deleted from ComfyUI, and is transferred again", hold=True)
            return self._refused(comfyui_errors.of_refusal(refused, self.claim.prompt, classes))
        except Unreachable as exc:
            return self._post_unanswered(exc)
        self._status_due = time.monotonic() + STATUS_SECONDS
        self._add_warnings(submitted, classes)
        return None

    def _add_warnings(self, submitted: Submitted, classes: node_info.Classes) -> None:
        """Log warnings for the user: what ComfyUI leaves out, and probable mistakes."""
        prompt = self.claim.prompt
        self._warnings = comfyui_errors.dropped(
            submitted.node_errors,
            prompt,
            classes,
            near=lambda missing: model_usage.near(missing, prompt),
        )
        self._warnings += advice.warnings(
            prompt, classes, model_usage.embeddings(prompt, worker=self._backend.name)
        )
        for sentence in self._warnings:
            self._log_line(Line(sentence, Level.WARNING))

    def _classes(self) -> node_info.Classes:
        """Node classes of its ComfyUI; empty if the database is unavailable. Only used for messages."""
        try:
            with connections.step():
                return node_info.of(self._backend.object_info_digest)
        except connections.UNAVAILABLE:
            return {}

    def _post_unanswered(self, exc: Unreachable) -> Gone | None:
        """ComfyUI may have accepted it nonetheless: check that first."""
        if exc.access_denied and not exc.garbled:
            return self._requeue_after_fault("its ComfyUI denied access", exc)
        try:
            if exc.sent and self._client.whereabouts(self._id) != "unknown":
                return None
        except Unreachable as silent:
            if exc.status is None and silent.status is None and silent.sent:
                return None  # probably slow: following it applies the timeouts
            self._backend.orphans.set()  # it may have been accepted
            if exc.status is not None or silent.status is not None:
                return self._requeue_after_fault("its ComfyUI could not be reached", exc)
            return self._requeue(
                "its ComfyUI died", fault=exc.sent and self._may_have_crashed_comfyui(), hold=True
            )
        fault = _REFUSED_BY.get(exc.status or 0)
        to_blame = self.claim.tries + 1 >= FAILURES_BEFORE_BLAME and self._backend.fails_only_with(self._id)
        if fault is not None and to_blame:
            return self._fail(fault)
        return self._requeue_after_fault("ComfyUI did not accept it", exc)

    def _refused(self, fault: Fault) -> Gone:
        """Fail the execution, or requeue it if another backend may have what is missing here."""
        self._backend.record_success()
        if fault.lacks:
            others = self._retry_until_available(lambda: registry.others_alive(name=self.claim.worker))
            if set(others) - set(self.claim.excluded):
                return self._requeue(f"this worker does not have {', '.join(fault.lacks)}", exclude=True)
        return self._fail(model_usage.with_suggestions(fault, self.claim.prompt))
