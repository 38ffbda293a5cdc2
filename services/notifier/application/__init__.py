"""From alerts to deliveries."""
