import resource, os
u = resource.getrusage(resource.RUSAGE_CHILDREN)
print(u.ru_utime, u.ru_nvcsw, os.times().children_user)
