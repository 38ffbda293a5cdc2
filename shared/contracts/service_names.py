"""Names under which the services act."""

# No person's key may write audit records, or commands, in the name of a service.
SERVICE_NAMES = frozenset(
    {
        "agent",
        "analyse",
        "anomaly",
        "gateway",
        "notifier",
        "pool",
        "recorder",
        "scheduler",
        "supervisor",
        "telemetry",
        "worker",
    }
)
