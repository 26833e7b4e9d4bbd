# run: python -m json.tool --sort-keys
# stdin: {"b": 1, "a": [1, 2]}
