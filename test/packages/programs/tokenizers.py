# package: tokenizers
# load: tokenizers
# Threads of Rayon's.
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

tokenizer = Tokenizer(models.BPE(unk_token='?'))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
text = ['the quick brown fox jumps over the lazy dog number %d' % (i % 10) for i in range(2000)]
tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=90, special_tokens=['?'], show_progress=False))
print(tokenizer.get_vocab_size(), [e.tokens for e in tokenizer.encode_batch(['the fox jumps', 'a dog'])])
