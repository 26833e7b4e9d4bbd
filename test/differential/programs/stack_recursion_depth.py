import sys
def f(n):
    try:
        return f(n + 1)
    except RecursionError:
        return n
sys.setrecursionlimit(200)
print(180 < f(0) <= 200)
