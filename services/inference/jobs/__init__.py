"""How jobs end, shared by pools and workers."""
