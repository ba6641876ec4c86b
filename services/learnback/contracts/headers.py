"""HTTP headers that one process of ours sends to another, in lower case."""

AS_TENANT = "x-learnback-as-tenant"
"""Whose examples an answer is given with; it takes the scope `evaluate` to name another."""
