print(any('[stack]' in l for l in open('/proc/self/maps')), any('[heap]' in l for l in open('/proc/self/maps')))
