# run: python -m app -h
import argparse
p = argparse.ArgumentParser(description='what it does')
p.add_argument('file')
p.parse_args()
