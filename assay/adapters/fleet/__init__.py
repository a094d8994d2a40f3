"""An owner's fleet: several GPUs or machines behind one identity, run by Ray.

    daemon (keys, network)  engine.py     implements assay.ports.Engine; starts the driver and speaks lines of canonical JSON with it
    driver (no keys)        driver.py     attaches to Ray, puts tasks on places, takes up again what a lost place was doing
      its logic             placing.py    which place takes which task, when it is given up: pure
      its errands           errands.py    one task on one place: files there, steps as they are done, files back
    a place (a Ray actor)   place.py      runs one task of each kind at a time in an engine that is shut in as elsewhere

Ray unpickles what it is sent, so whoever can speak to it owns the machine that it runs on. It is therefore kept where nobody else can: on one
machine in a network of its own (bubblewrap), on several only where nothing that it listens on has a public address (exposure.py). The
daemon, which holds the keys, never unpickles: what comes to it from the driver is parsed as strictly as what comes from an engine.
"""
