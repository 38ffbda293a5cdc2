"""Programs that compute from the fleet's past."""
