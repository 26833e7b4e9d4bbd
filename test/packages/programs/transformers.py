# package: transformers
# load: transformers transformers.models.auto
# env: TRANSFORMERS_NO_ADVISORY_WARNINGS=1
# Without torch, of whose absence it would tell: tokenizers and configurations.
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast

words = {w: i for i, w in enumerate(['[PAD]', '[UNK]', 'hello', 'world', 'again'])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token='[UNK]'))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token='[PAD]', unk_token='[UNK]')
print(fast(['hello world', 'hello big world again'], padding=True)['input_ids'], fast.decode([3, 4]))
fast.save_pretrained('saved')
print(PreTrainedTokenizerFast.from_pretrained('saved').tokenize('again, hello'))
config = BertConfig(hidden_size=12, num_attention_heads=2)
print(config.hidden_size, config.to_diff_dict()['num_attention_heads'])
