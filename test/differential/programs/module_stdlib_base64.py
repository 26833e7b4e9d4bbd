# run: python -m base64 -e
# stdin: hello
