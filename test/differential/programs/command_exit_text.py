# run: python -c "import sys; sys.exit('the reason')"
# exit: 1
