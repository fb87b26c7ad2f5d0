def measure(smoke, rounds, progress):
    return [], [], {}
