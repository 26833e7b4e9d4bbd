import locale
print(locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(), locale.localeconv()['decimal_point'])
