"""Requests and responses: bodies, parameters, problem details."""
