"""Every default of the program, in one place. Each value can be overridden by a flag of `main.py`."""

# The training set-up of the paper (section 3.3), and what every phase needs.
PARAMS = {
    "device": "auto",  # layout of the network: "cpu" (channels-last), "gpu" (channels-first), or "auto"
    "epochs": 10,  # passes over the training set; the total, also when a run is continued
    "batch_size": 1,  # images in one training step
    "learning_rate": 1e-5,  # of Adam
    "seed": 42,  # of the shuffling and of the initial weights
    "results": "results",  # folder that receives everything a run produces
}

# Height and width of the network's input for each dataset, in pixels. Both are divisible by 8.
DIMS = {
    "salicon": (240, 320),
    "mit1003": (360, 360),
    "cat2000": (216, 384),
    "dutomron": (360, 360),
    "pascals": (360, 360),
    "osie": (240, 320),
    "fiwi": (216, 384),
}
