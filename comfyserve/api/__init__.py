"""What every endpoint shares: errors, request ids, parsing, limits, pagination, schema."""
