"""Progress bars, and the functions that report steps to them or to a caller."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[int, int, str], None]  # steps done, their maximum, text


@contextmanager
def progress_bar(
    description: str, show: bool, on_progress: OnProgress | None = None
) -> Iterator[OnProgress]:
    """Show a progress bar; yield the function that updates it.

    Args:
      description: what stands before the bar.
      show: show it; else reports only go on to `on_progress`.
      on_progress: called with each report, too.
    """
    from tqdm import tqdm

    with tqdm(desc=description, unit="step", leave=False, disable=not show) as bar:

        def update(done: int, maximum: int, text: str) -> None:
            bar.total = maximum
            bar.set_postfix_str(text, refresh=done == bar.n)  # without steps no update shows it
            bar.update(done - bar.n)
            if on_progress is not None:
                on_progress(done, maximum, text)

        yield update
