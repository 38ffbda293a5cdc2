"""Every message that crosses a service boundary, as pydantic models."""
