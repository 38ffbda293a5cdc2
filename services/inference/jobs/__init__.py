"""How jobs end, for pools and workers alike."""
