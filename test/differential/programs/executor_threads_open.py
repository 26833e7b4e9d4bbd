import concurrent.futures as f, time
e = f.ThreadPoolExecutor(2)
e.submit(lambda: (time.sleep(0.05), print('done')))
print('main ends')
