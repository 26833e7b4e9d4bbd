import concurrent.futures as f
with f.ThreadPoolExecutor(3) as e:
    print(list(e.map(lambda x: x + 1, range(5))))
