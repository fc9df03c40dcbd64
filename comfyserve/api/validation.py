"""What was sent, checked against a serializer: a body, or the parameters of a query."""

from __future__ import annotations

from typing import Any

from django.http import QueryDict
from rest_framework.serializers import BaseSerializer


def checked(kind: type[BaseSerializer[Any]], data: Any) -> dict[str, Any]:
    """The values by name, with defaults. ValidationError with all mistakes, which is answered as a 400.

    Of a parameter that is given twice the last one counts. An empty one is a mistake, not an absent one.
    """
    # As a plain dict: REST framework takes an empty parameter of a QueryDict for one that is not there.
    serializer = kind(data=data.dict() if isinstance(data, QueryDict) else data)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)
