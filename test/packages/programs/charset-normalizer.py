# package: charset-normalizer
# load: charset_normalizer
from charset_normalizer import from_bytes

for text, encoding in (('naïve café à Zürich, où ça ?' * 9, 'latin-1'), ('Привет, мир. Как дела?' * 9, 'cp1251'), ('日本語の文章です。' * 9, 'euc_jp')):
    best = from_bytes(text.encode(encoding)).best()
    print(best.encoding, best.language, len(str(best)))
