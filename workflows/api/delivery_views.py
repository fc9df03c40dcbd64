"""The endpoints that deliver files again: parse, call one function, render."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from comfyserve.api.schema import describe
from comfyserve.api.validation import checked
from workflows.delivery import redelivery
from workflows.presentation import batch_selectors, representations, schemas, selectors

from .batch_schemas import RedeliveredSerializer
from .serializers import RedeliverSerializer
from .views import user_of


class RedeliverView(APIView):
    """Deliver the files of an execution again."""

    @describe(RedeliverSerializer, schemas.DeliveredSerializer(many=True), errors=(409,))
    def post(self, request: Request, execution_id: str) -> Response:
        """Redeliver Outputs: send files that were not delivered again, at once and with new retries.

        The target stays the same unless `deliver_to` gives another one. A URL that was given for one run is
        erased when its delivery ends: give another one.
        """
        user = user_of(request)
        execution = selectors.execution_of(user=user, execution_id=execution_id)
        redelivery.redeliver(execution, user=user, **checked(RedeliverSerializer, request.data))
        made = selectors.outputs([execution.id])[execution.id]
        return Response(representations.delivery(made)["delivery"])


class RedeliverBatchView(APIView):
    """Deliver the files of a batch again."""

    @describe(None, RedeliveredSerializer)
    def post(self, request: Request, batch_id: str) -> Response:
        """Redeliver Batch: send its files whose delivery failed to their destination again.

        Up to 10,000 files at once; the response says how many.
        """
        batch = batch_selectors.batch_of(user=user_of(request), batch_id=batch_id)
        return Response({"count": redelivery.redeliver_failed(execution__batch=batch)})
