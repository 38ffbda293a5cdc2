"""dramatiq: acknowledged after the run, results stored in Redis."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["BROKER"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BROKER"]), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def echo(text):
    return text


def measure(jobs, singles, text, clock):
    latencies = []
    for _ in range(singles):
        began = clock()
        echo.send(text).get_result(block=True, timeout=60_000)
        latencies.append(clock() - began)
    began = clock()
    waiting = []
    for _ in range(jobs):
        waiting.append(echo.send(text))
        if len(waiting) >= 256:
            waiting.pop(0).get_result(block=True, timeout=60_000)
    for one in waiting:
        one.get_result(block=True, timeout=60_000)
    return jobs / (clock() - began), latencies
