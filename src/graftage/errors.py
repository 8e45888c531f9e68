"""Every error that graftage raises on purpose. This file imports nothing, so that any room can raise.

```
GraftageError          a user can mend it: the command line prints the sentence and exits with 2
├── PictureError       one file is no usable picture; carries a short reason for the ledger
├── DataError          a folder, list or label set that cannot be learnt from or measured
├── OptionError        an argument, flag or config value outside what is allowed
├── BackboneError      a pretrained network that cannot be had, or whose weights do not fit
├── BundleError        a model file that is not ours, damaged, or of an unknown format
├── ExportError        a model that cannot be exported, or whose export gives other answers
└── StoreError         a feature store or output folder that cannot be read or written
```
"""


class GraftageError(Exception):
    """Something that the user can mend; the message says which file or value, what is wrong and what to do."""


class PictureError(GraftageError):
    """One file is no usable picture.

    Attributes:
        reason: a few words, the same for every file with this fault ("truncated", "empty file"); goes into the ledger.
        detail: what exactly was found in this file; may be empty.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class DataError(GraftageError):
    """A folder, list or label set that cannot be learnt from or measured."""


class OptionError(GraftageError):
    """An argument, flag or config value outside what is allowed."""


class BackboneError(GraftageError):
    """A pretrained network that cannot be had, or whose weights do not fit."""


class BundleError(GraftageError):
    """A model file that is not ours, damaged, or of an unknown format."""


class ExportError(GraftageError):
    """A model that cannot be exported, or an export that gives other answers than the model."""


class StoreError(GraftageError):
    """A feature store or output folder that cannot be read or written."""
