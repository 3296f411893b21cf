"""One reader for each format of anyone's logs. It is fed blocks of lines and finds measurements and problems."""
