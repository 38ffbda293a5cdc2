"""What happens behind the routes."""
