# exit: 0
import logging
logging.basicConfig(format='%(levelname)s %(name)s %(module)s %(funcName)s %(lineno)d %(processName)s %(threadName)s %(message)s', level=0)
logging.info('hello')
def f(): logging.getLogger('x').warning('careful', stack_info=True)
f()
try:
    1 / 0
except ZeroDivisionError:
    logging.exception('caught')
