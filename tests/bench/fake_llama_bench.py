"""A stand-in for llama-bench: takes its options, prints its JSON, and takes as long as its model's name says (10 ms)."""

import json
import sys

words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
tests = [(int(words["-p"]), 0), (0, int(words["-n"]))]
if "-pg" in words:
    prompt, generated = words["-pg"].split(",")
    tests.append((int(prompt), int(generated)))
if "broken" in words["-m"]:
    sys.exit("error: failed to load model")
if "-t" not in words or words["-o"] != "json" or words["-r"] != "1":
    sys.exit(f"error: not how llama-bench is called: {words}")
rows = [
    {
        "build_commit": "0c1e570",
        "n_prompt": prompt,
        "n_gen": generated,
        "n_depth": int(words["-d"]),
        "samples_ns": [0 if "instant" in words["-m"] else 10_000_000],
    }
    for prompt, generated in tests
    if prompt or generated
]
print("" if "silent" in words["-m"] else json.dumps(rows))
