"""The salt of patients' hashes: a secret that stands in a file or in the environment, never among the arguments.

Arguments are seen by every user of a machine (`ps`), by the shell's history and by logs. What travels through this program is a `Salt`,
which names the place and reads the secret where it is used, so whatever is pickled, printed or written holds none of it.
"""

import os
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

from biomlm.core.errors import ConfigError

# The demo's, and that of builds without notes: it keeps no secret, and keeps their splits as they were.
PUBLIC = "biolm"
VARIABLES = ("BIOMLM_SALT", "BIOLM_SALT")
LONGEST = 4096  # bytes of a file that can be a salt
SHORTEST = 16  # characters; what is shorter can be found by trying
MAKE = "Make one, once for all your notes: `(umask 077; openssl rand -hex 32 > salt)`, and give --salt_file salt."


@dataclass(frozen=True)
class Salt:
    """Where a salt stands.

    Args:
        file: A file that its owner alone may read.
        variable: Or a variable of the environment. Without either it is the public one.
    """

    file: str = ""
    variable: str = ""

    @property
    def text(self) -> str:
        """The salt itself, read anew, without the line end of its file.

        Raises:
            ConfigError: The variable is not set, or the file cannot be read, is no salt, or others may read it.
        """
        if self.variable:
            return _of(self.variable)
        return _read(Path(self.file)) if self.file else PUBLIC

    @property
    def fingerprint(self) -> str:
        """The hash that tells one salt from another in a manifest: a keyed hash of a constant; of the public one the former kind."""
        text = self.text
        if text == PUBLIC:
            return self.former_fingerprint
        return blake2b(b"biomlm corpus salt", key=key_of(text), digest_size=16).hexdigest()

    @property
    def former_fingerprint(self) -> str:
        """The salt's SHA-256, which manifests of former versions hold."""
        return sha256(self.text.encode()).hexdigest()

    @property
    def weakness(self) -> str:
        """The reason why patients' numbers could be found from their hashes, empty if they cannot."""
        text = self.text
        if text == PUBLIC:
            return "public: fit for made-up notes only"
        return f"shorter than {SHORTEST} characters: it can be found by trying" if len(text) < SHORTEST else ""


def key_of(salt: str) -> bytes:
    """Return the key of BLAKE2b that a salt of any length stands for, 32 bytes."""
    return blake2b(salt.encode(), digest_size=32).digest()


def find_salt(file: str, *, needed: bool, elsewhere: bool) -> Salt:
    """Find the salt of a build.

    Args:
        file: The file that was named, else empty.
        needed: There are notes.
        elsewhere: Tasks run in processes that were started with an environment of their own.

    Raises:
        ConfigError: It is needed and there is none, there are two, or it is not fit to be one.
    """
    variables = [Salt(variable=name) for name in VARIABLES if os.environ.get(name)]
    salts = [*([Salt(file=str(Path(file).absolute()))] if file else []), *variables]
    if len({salt.text for salt in salts}) > 1:
        places = " and ".join(salt.file or salt.variable for salt in salts)
        raise ConfigError(f"{places} hold different salts", remedy="Give one of them.")
    if salts and elsewhere and not salts[0].file:
        raise ConfigError(
            f"tasks on Ray do not see {salts[0].variable} of this shell",
            remedy="Give the salt as a --salt_file that they can read.",
        )
    if not salts and needed:
        raise ConfigError("notes need a secret salt, or patients could be found from their hashes", remedy=MAKE)
    return salts[0] if salts else Salt()


def _of(variable: str) -> str:
    text = os.environ.get(variable, "").rstrip("\r\n")
    if not text:
        raise ConfigError(f"{variable} is empty or not set", remedy=MAKE)
    return text


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            mode, raw = os.fstat(opened.fileno()).st_mode & 0o777, opened.read(LONGEST + 1)
        text = raw.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"the salt cannot be read ({error.strerror})", file=file, remedy=MAKE) from None
    except UnicodeDecodeError:
        raise ConfigError("this is no salt, for it is not UTF-8 text", file=file, remedy=MAKE) from None
    if not text or len(raw) > LONGEST:
        raise ConfigError(f"this is no salt: it has {'no' if not text else 'too many'} bytes", file=file, remedy=MAKE)
    if mode & 0o077 and text != PUBLIC:
        raise ConfigError(f"others may read this salt (mode {mode:03o})", file=file, remedy=f"chmod 600 {file}")
    return text
