"""A step that does nothing, acknowledged when it is done, its result kept."""

import os

from celery import Celery

app = Celery("peer", broker=os.environ["AMQP_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_default_queue="dat-peer-celery",
    worker_prefetch_multiplier=32,
    worker_hijack_root_logger=False,
    result_expires=600,
    broker_connection_retry_on_startup=True,
)


@app.task
def step(number, add):
    return number + add
