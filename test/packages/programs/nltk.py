# package: nltk
# load: nltk
# What needs no data of its own.
from nltk import FreqDist, ngrams
from nltk.grammar import CFG
from nltk.parse import ChartParser
from nltk.stem import PorterStemmer, SnowballStemmer
from nltk.tokenize import RegexpTokenizer

words = RegexpTokenizer(r'\w+').tokenize('The cats were running; the dogs ran after the running cats.'.lower())
print([PorterStemmer().stem(w) for w in words], SnowballStemmer('german').stem('Häuser'))
print(sorted(FreqDist(ngrams(words, 2)).items())[:4])
grammar = CFG.fromstring("S -> N V N\nN -> 'dogs' | 'cats'\nV -> 'chase'")
print([str(t) for t in ChartParser(grammar).parse('dogs chase cats'.split())])
