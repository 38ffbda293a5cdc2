"""Requests and answers: bodies, parameters, problem details."""
