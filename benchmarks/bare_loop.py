"""The ceiling without a server: tokenise and run, batch after batch in arrival order.

Started by embed.py, pinned to the server's core. For each line `SECONDS BATCH` on standard input
it loops that long and prints the rows per second.
"""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np
import onnxruntime
from stage import read_questions
from tokenizers import Tokenizer


def main() -> None:
    folder, questions_path = sys.argv[1], sys.argv[2] or None
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"]
    )
    questions = itertools.cycle(read_questions(questions_path))

    def run(batch: int) -> None:
        encodings = tokenizer.encode_batch_fast(list(itertools.islice(questions, batch)))
        session.run(
            None,
            {
                "input_ids": np.array([e.ids for e in encodings], np.int64),
                "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
            },
        )

    for size in (1, 8, 32):
        run(size)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, batch = float(line.split()[0]), int(line.split()[1])
        rows = 0
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            run(batch)
            rows += batch
        print(rows / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
