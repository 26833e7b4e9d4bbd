# run: python app.py one "two words" --three=3 ""
import sys
print(sys.argv)
