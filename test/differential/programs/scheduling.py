import os


def scheduler():
    try:
        return os.sched_getscheduler(0)
    except OSError as e:  # musl has none
        return e.errno


print(os.getpriority(os.PRIO_PROCESS, 0), scheduler(), sorted(os.sched_getaffinity(0)), os.cpu_count())
