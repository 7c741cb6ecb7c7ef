"""fairseq's side of benchmarks/pretrain.py, run by the Python of fairseq's environment: fairseq-train itself, halted before each step.

python fairseq_side.py ARGUMENTS OF fairseq-train …
"""

import json
import resource
import sys
import time

PAD = 1


def main() -> None:
    from fairseq import trainer
    from fairseq_cli.train import cli_main

    step = trainer.Trainer.train_step

    def halted(self, samples, raise_oom=False):  # type: ignore[no-untyped-def]
        sys.stdin.readline()
        start = time.perf_counter()
        outcome = step(self, samples, raise_oom)
        seconds = time.perf_counter() - start
        tokens = sum(int(sample["net_input"]["src_tokens"].ne(PAD).sum()) for sample in samples)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print("RESULT " + json.dumps({"tokens": tokens, "seconds": seconds, "peak_gb": peak}), flush=True)
        return outcome

    trainer.Trainer.train_step = halted
    cli_main()


if __name__ == "__main__":
    main()
