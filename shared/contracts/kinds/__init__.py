"""Inputs and results of the built-in job kinds, one module a kind: what clients and workers agree on."""
