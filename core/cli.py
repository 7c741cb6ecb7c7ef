"""The `biomlm` command: find the verb, parse its configuration, run it, and say errors in one or two lines.

Rooms are named here as text and imported when their verb is called, so that `core` depends on no room and `--help` is quick.
Exit codes: 0 done; 2 the user's mistake, without a traceback; 1 ours, with one; 130 interrupted; 75 stopped by a signal or a lost
process: run the same command again.
"""

import difflib
import errno
import os
import resource
import signal
import sys
from collections.abc import Sequence

from biomlm import __version__
from biomlm.core import config as configuration
from biomlm.core import errors, manifest
from biomlm.core.errors import StoppedError, TemporaryError, UserError
from biomlm.core.processes import lock
from biomlm.core.processes.signals import STOPS, let_signals_through, stop_on_signals
from biomlm.core.verbs import VERBS

DISK_ERRORS = {
    errno.ENOSPC: "Free some space and run the same command again; what was already written is whole.",
    errno.EDQUOT: "Free some of the quota and run the same command again; what was already written is whole.",
    errno.EROFS: "Give an --out on a file system that can be written to.",
    errno.EACCES: "Give a path that this user may read and write.",
    errno.EPERM: "Give a path that this user may read and write.",
    errno.ENOENT: "Check the path.",
    errno.ENAMETOOLONG: "Check the path, or what a file says of one.",
    errno.ENOTDIR: "Check the path: a part of it is a file.",
    errno.EISDIR: "Give a file, not a folder.",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `biomlm` and exit."""
    keep_private()
    stop_on_signals()
    let_signals_through()
    # OpenMP's threads spin long while they wait, on a core that another process may need: a step of torch's on two busy cores takes
    # 168 ms, spinning briefly 92 ms, not at all 131 ms; on two idle ones 48 ms each way.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # A module in the current folder is never taken for one of a package's, in no process that is started from here.
    os.environ["PYTHONSAFEPATH"] = "1"
    errors.install()
    code = run(sys.argv[1:] if argv is None else argv)
    # What was to be done is done: a signal that comes while Python takes itself down changes nothing.
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def keep_private() -> None:
    """Let nobody else read what this process and its children write, nor a fault leave their memory on the disk: it may hold notes."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def room_main(room: str) -> None:
    """Run `python -m biomlm.<room>`, which is `biomlm <room>`."""
    main([room, *sys.argv[1:]])


def run(argv: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    argv = list(argv)
    verbose = "-v" in argv
    argv = [word for word in argv if word != "-v"]
    if argv == ["--version"]:
        print(f"biomlm {__version__}")
        return 0
    name = next((" ".join(argv[:n]) for n in (2, 1) if " ".join(argv[:n]) in VERBS), None)
    if name is None:
        return _usage(argv)
    prog = f"biomlm {name}"
    try:
        verb = VERBS[name]
        words = argv[len(name.split()) :]
        config = configuration.parse(
            verb.config, words, prog=prog, positionals=verb.positionals, example=verb.example, first=verb.first
        )
        verb.run(config)
    except UserError as error:
        return _refuse(prog, error, verbose)
    except KeyboardInterrupt:
        manifest.note_stop()
        print(f"\n{prog}: interrupted. The same command goes on where it was.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            print(errors.told(error), file=sys.stderr)
            return 1
        return _say(
            prog,
            f"{errors.shown_name(error.filename)}: {error.strerror}.\n{DISK_ERRORS[error.errno]}",
            error,
            verbose,
        )
    except SystemExit as stop:
        if stop.code == TemporaryError.exit_code:
            manifest.note_stop()
        return int(stop.code or 0)
    except Exception as error:
        if (reason := errors.explained(error)) is not None:
            return _refuse(prog, reason, verbose)
        print(errors.told(error), file=sys.stderr)
        print(
            f"{prog}: this is a fault of biomlm's, not yours; please report it with the lines above.", file=sys.stderr
        )
        return 1
    finally:
        lock.release()
    return 0


def _refuse(prog: str, error: UserError, verbose: bool) -> int:
    if isinstance(error, TemporaryError):
        manifest.note_stop(manifest.STOPPED if isinstance(error, StoppedError) else manifest.LOST)
    return _say(prog, str(error), error, verbose, error.exit_code)


def _say(prog: str, message: str, error: Exception, verbose: bool, code: int = 2) -> int:
    if verbose:
        print(errors.told(error), file=sys.stderr)
    print(f"{prog}: {message}", file=sys.stderr)
    return code


def _usage(argv: list[str]) -> int:
    lines = [
        "usage: biomlm <verb> [--config FILE.yaml] [--key value …]   (-v shows tracebacks, --version the version)",
        "",
    ]
    asked = not argv or argv[0] in ("-h", "--help", "help")
    room = [v for v in VERBS if argv and v.split()[0] == argv[0]]
    lines += [f"  {verb:18} {VERBS[verb].summary}" for verb in (room or VERBS)]
    lines += ["", "`biomlm <verb> --help` lists a verb's options. Start with: biomlm launch demo --out runs/demo"]
    if not asked and not (room and argv[1:] in ([], ["-h"], ["--help"])):
        wrong = " ".join(word for word in argv[:2] if not word.startswith("-")) or argv[0]
        close = difflib.get_close_matches(wrong, VERBS, n=1) or difflib.get_close_matches(argv[0], VERBS, n=1)
        remedy = f"Did you mean `biomlm {close[0]}`?" if close else "`biomlm --help` lists the verbs."
        print(f"biomlm: there is no verb `{wrong}`.\n{remedy}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0
