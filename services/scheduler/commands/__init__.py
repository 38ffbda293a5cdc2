"""Command-line programs that analyse the fleet's history."""
