"""Options `--network.*` of the command line, made from the settings of the network's configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from msmtfn.model.settings import SETTINGS, Setting


def _describe(setting: Setting) -> Any:
    """Return what tyro shows of a setting."""
    meaning = setting.meaning[0].upper() + setting.meaning[1:]
    return tyro.conf.arg(name=setting.option.removeprefix("--"), help=meaning)


if TYPE_CHECKING:

    @dataclass(frozen=True, init=False)
    class NetworkOptions:
        """Settings of a new network; None leaves that of --start."""

        def __init__(self, **settings: Any) -> None: ...

else:
    NetworkOptions = make_dataclass(
        "NetworkOptions",
        [(name, Annotated[each.kind | None, _describe(each)], None) for name, each in SETTINGS.items()],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": "Settings of a new network; by default those of --start."},
    )


def given_options(options: NetworkOptions) -> dict[str, Any]:
    """Return the settings that were given, by their names."""
    return {name: value for name, value in asdict(options).items() if value is not None}
