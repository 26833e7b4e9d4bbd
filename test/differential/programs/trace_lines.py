import sys
lines = []
def tracer(frame, event, arg):
    lines.append((event, frame.f_code.co_name, frame.f_lineno))
    return tracer
sys.settrace(tracer)
def f(x):
    y = x
    return y
f(1)
sys.settrace(None)
print(lines)
