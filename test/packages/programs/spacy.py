# package: spacy
# load: spacy spacy.lang.en
import spacy
from spacy.matcher import Matcher
from spacy.tokens import DocBin
from spacy.training import Example

nlp = spacy.blank('en')
nlp.add_pipe('sentencizer')
doc = nlp("Dr. Smith didn't go. He's at home, isn't he?")
print([t.text for t in doc], [s.text for s in doc.sents])
matcher = Matcher(nlp.vocab)
matcher.add('not', [[{}, {'LOWER': "n't"}]])
print([doc[a:b].text for _, a, b in matcher(doc)])
print([d.text for d in DocBin(docs=[doc]).get_docs(nlp.vocab)])
category = nlp.add_pipe('textcat')
category.add_label('yes')
category.add_label('no')

spacy.util.fix_random_seed(0)
examples = [Example.from_dict(nlp.make_doc(t), {'cats': {'yes': y, 'no': 1 - y}}) for t, y in (('good', 1.0), ('bad', 0.0))]
optimizer = nlp.initialize(lambda: examples)
for _ in range(20):
    nlp.update(examples, sgd=optimizer)
print(max(nlp('good').cats, key=nlp('good').cats.get), max(nlp('bad').cats, key=nlp('bad').cats.get))
