"""One room per format of anyone's logs: fed blocks of lines, it tells measurements and problems."""
