"""Chains of five tasks: RabbitMQ between them, results in Redis."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import celery
from celery import chain
from tasks import app, step

WORKFLOWS = int(os.environ.get("WORKFLOWS", "2000"))
CLIENTS = int(os.environ.get("CLIENTS", "128"))
ALONE = int(os.environ.get("ALONE", "100"))


def workflow(number):
    done = chain(step.s(number, 0), step.s(1), step.s(2), step.s(3), step.s(4))()
    if done.get(timeout=120) != number + 10:
        raise RuntimeError("a chain came out wrong")


def closed_loop(workflows, first):
    numbers = queue.SimpleQueue()
    for number in range(first, first + workflows):
        numbers.put(number)
    failures = []

    def client():
        while True:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            try:
                workflow(number)
            except Exception as error:  # told below
                failures.append(error)
                return

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - begun


def main():
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "2", "-l", "ERROR", "--without-gossip",
         "--without-mingle", "--without-heartbeat"],
        stdout=subprocess.DEVNULL,
    )
    try:
        workflow(0)
        closed_loop(max(WORKFLOWS // 10, 1), 1)
        seconds = closed_loop(WORKFLOWS, 100_000)
        latencies = []
        for number in range(ALONE):
            begun = time.perf_counter()
            workflow(number)
            latencies.append((time.perf_counter() - begun) * 1000)
        latencies.sort()
        print(json.dumps({
            "peer": "celery",
            "version": celery.__version__,
            "steps_per_s": 5 * WORKFLOWS / seconds,
            "alone_p50_ms": latencies[len(latencies) // 2],
            "alone_p99_ms": latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
        }))
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete("dat-peer-celery")


main()
