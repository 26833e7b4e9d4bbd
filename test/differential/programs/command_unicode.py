# run: python -c "print('grün', len('grün'))"
