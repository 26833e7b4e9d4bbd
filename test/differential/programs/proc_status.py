keep = ('Umask', 'State', 'Groups', 'Threads', 'SigQ', 'SigPnd', 'ShdPnd', 'SigBlk', 'SigIgn', 'SigCgt', 'CapInh', 'CapPrm', 'CapEff',
        'CapBnd', 'CapAmb', 'NoNewPrivs', 'Uid', 'Gid', 'Name', 'TracerPid')
for line in open('/proc/self/status'):
    if line.split(':')[0] in keep and not line.startswith('SigQ'):
        print(line.strip())
