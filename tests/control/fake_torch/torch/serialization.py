def save(value, path):
    with open(path, "w") as file:
        file.write(repr(value))
