print(ascii('ä'))
