import signal
import threading
import time
from pathlib import Path

import pytest

from multiebm.core.interrupts import SIGNALS, interruptible


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_interrupts_and_the_impatient_ones_after_it_do_not(number: signal.Signals):
    before = [signal.getsignal(n) for n in SIGNALS]
    seen = []
    with interruptible():
        try:
            signal.raise_signal(number)
            pytest.fail("went on")
        except KeyboardInterrupt:
            for later in (*SIGNALS, number):
                signal.raise_signal(later)
                seen.append(later)
    assert len(seen) == 3
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_a_later_signal_counts_again_unless_all_are_to_be_ignored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("multiebm.core.interrupts.QUIET_SECONDS", 0.0)
    with interruptible() as interrupts:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        interrupts.ignore()
        signal.raise_signal(signal.SIGINT)


def test_a_signal_inside_an_import_comes_again_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "library_that_swallows.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    pass\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with interruptible():
        import library_that_swallows

        assert library_that_swallows.whole
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)


def test_a_block_inside_another_has_the_same_handler():
    with interruptible() as outer:
        with interruptible() as inner:
            assert inner is outer
        assert signal.getsignal(signal.SIGINT) is outer


def test_other_threads_leave_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def other() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [before]
