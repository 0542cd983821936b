"""The process of sentence-transformers for text_rates.py: python text_peer.py FOLDER, with a request on each line."""

from __future__ import annotations

import json
import sys
import time

import numpy as np


def main() -> None:
    """Encode the texts of each request, and answer with the seconds."""
    import sentence_transformers

    encoder = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    encoder.encode(["a short text"] * 64)
    print(json.dumps({"version": sentence_transformers.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        features = encoder.encode(request["texts"])
        seconds = time.perf_counter() - started
        np.save(request["out"], features)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
