"""Files that tests put on the loopback Hub."""

import hashlib
import random

WEIGHTS = random.Random(0).randbytes(300_000)
CARD = b"---\nlicense: mit\n---\n# A model\n"


def sha256(content):
    return hashlib.sha256(content).hexdigest()
