# package: celery
# load: celery celery.app.base celery.worker celery.concurrency.solo kombu.transport.memory
# A worker in a thread, with the broker in memory.
from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker

app = Celery('app', broker='memory://', backend='cache+memory://')
app.conf.worker_log_format = app.conf.worker_task_log_format = ''


@app.task
def add(x, y):
    return x + y


@app.task(bind=True, max_retries=2)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


with start_worker(app, perform_ping_check=False, loglevel='CRITICAL', pool='solo'):
    print(add.delay(2, 3).get(timeout=20), group(add.s(i, i) for i in range(4))().get(timeout=20), flaky.delay().get(timeout=20))
