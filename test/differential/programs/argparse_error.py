# run: python app.py --nothing
# exit: 2
import argparse
argparse.ArgumentParser().parse_args()
