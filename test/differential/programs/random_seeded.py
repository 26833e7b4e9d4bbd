import random
random.seed(7)
print(random.random(), random.Random(3).randint(0, 10**9))
