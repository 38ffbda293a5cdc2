"""Inputs and results of the built-in job kinds, one module per kind, shared by clients and workers."""
