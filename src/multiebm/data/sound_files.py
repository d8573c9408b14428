"""Files of sounds as pictures of them: mel spectrograms, time to the right and high tones at the top."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiebm.core.errors import DataError, imported
from multiebm.data.npz import BROKEN

ENDINGS = (".ogg", ".wav")  # .ogg needs the package soundfile
SECONDS = 2.0  # from the start that a picture shows; a shorter sound ends in silence
_RATE = 16_000  # samples a second that are looked at
_WINDOW = 1024  # samples of a window of Hann
_TONES = (50.0, 8000.0)  # hertz of the lowest and the highest band
_DECIBELS = 80.0  # from the loudest place, white, down to black
_LONGEST = 600.0  # seconds of a file that is read at all
_EXPECTED = "expected a readable sound; install or unpack it again"


def read_sound(file: Path) -> tuple[NDArray[np.float64], int]:
    """Return samples [T] of a file, the mean of its channels, and how many a second has; DataError names the file."""
    if file.suffix.lower() == ".wav":
        import scipy.io.wavfile  # late: few need it

        try:
            rate, samples = scipy.io.wavfile.read(file)
        except (OSError, *BROKEN) as error:
            raise DataError(f"{file}: got {str(error) or type(error).__name__}, {_EXPECTED}") from error
        scale = np.iinfo(samples.dtype).max if samples.dtype.kind in "iu" else 1
        samples = samples / scale - (0.5 if samples.dtype.kind == "u" else 0)
    else:
        library = _library(file)
        try:
            samples, rate = library.read(file, frames=int(_LONGEST * library.info(file).samplerate))
        except (OSError, RuntimeError, *BROKEN) as error:
            raise DataError(f"{file}: got {str(error) or type(error).__name__}, {_EXPECTED}") from error
    if not len(samples):
        raise DataError(f"{file}: got a sound of no length, {_EXPECTED}")
    return samples.reshape(len(samples), -1).mean(1), int(rate)


def _library(file: Path) -> Any:
    got = f"{file}: got Ogg Vorbis, which the package soundfile reads, and it is not here"
    return imported("soundfile", DataError, f'{got}; pip install "multiebm[sounds]", or set data.settings.sounds=false')


def spectrogram(samples: NDArray[np.float64], rate: int, size: int) -> NDArray[np.uint8]:
    """Return the first SECONDS of samples [T] as a picture [1, size, size]: `size` bands, equally far apart in mel, of
    power in decibels below the loudest place. Silence is black.
    """
    import scipy.signal  # late: few need it

    kept = samples[: round(SECONDS * rate)]
    divisor = np.gcd(rate, _RATE)
    kept = scipy.signal.resample_poly(kept, _RATE // divisor, rate // divisor)
    kept = np.pad(kept, (_WINDOW // 2, max(round(SECONDS * _RATE) - len(kept), 0) + _WINDOW))
    starts = np.rint(np.linspace(0, SECONDS * _RATE, size, endpoint=False)).astype(int)
    windows = kept[starts[:, None] + np.arange(_WINDOW)] * np.hanning(_WINDOW)
    power = _bands(size) @ (np.abs(np.fft.rfft(windows)) ** 2).T
    loudest = power.max()
    if not loudest > 0:
        return np.zeros((1, size, size), np.uint8)
    decibels = 10 * np.log10(np.maximum(power / loudest, 10 ** (-_DECIBELS / 10)))
    return np.rint(255 * (1 + decibels[::-1] / _DECIBELS)).astype(np.uint8)[None]


def _bands(n: int) -> NDArray[np.float64]:
    """Return weights [n, F] of frequencies in triangular bands, each of sum 1; none is narrower than a frequency."""
    low, high = 2595 * np.log10(1 + np.array(_TONES) / 700)  # in mel
    edges = 700 * (10 ** (np.linspace(low, high, n + 2) / 2595) - 1)
    step = _RATE / _WINDOW
    half = np.maximum((edges[2:] - edges[:-2]) / 2, step)
    away = np.abs(np.arange(_WINDOW // 2 + 1) * step - edges[1:-1, None])
    weights = np.maximum(1 - away / half[:, None], 0)
    return weights / weights.sum(1, keepdims=True)
