import logging
logging.warning('to stderr')
logging.getLogger('a').error('%s', 'formatted')
