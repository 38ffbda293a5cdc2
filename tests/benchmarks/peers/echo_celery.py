"""Celery: acknowledged late, results stored. Broker and backend come from the environment."""

import os

from celery import Celery

app = Celery("echo", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=64,
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)


@app.task
def echo(text):
    return text


def measure(jobs, singles, text, clock):
    latencies = []
    for _ in range(singles):
        began = clock()
        echo.delay(text).get(timeout=60)
        latencies.append(clock() - began)
    began = clock()
    waiting = []
    for _ in range(jobs):
        waiting.append(echo.delay(text))
        if len(waiting) >= 256:
            waiting.pop(0).get(timeout=60)
    for one in waiting:
        one.get(timeout=60)
    return jobs / (clock() - began), latencies
