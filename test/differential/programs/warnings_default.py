import warnings
warnings.warn('one', DeprecationWarning)
warnings.warn('two', UserWarning)
warnings.warn('two', UserWarning)
print(len(warnings.filters), len(globals().get('__warningregistry__', ())))
