"""Executions, from submission to webhook."""
