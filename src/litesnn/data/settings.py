"""Which data set a recipe names, and what its recordings become: settings alone, without torch.

In: a recipe's ``[data]``, ``[audio]`` and ``[events]``. Out: what :func:`litesnn.data.sources.load` reads them by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from litesnn.front_end import EventFrames, LogMel

__all__ = ["DATA_FILE", "EXPECTED", "DataSettings", "FrontEnds"]

DATA_FILE = "data.npz"
"""The file of a run folder that keeps data which were given as arrays or datasets."""

EXPECTED = (
    "expected 'digits', an .npz file, a .csv file of file names and labels, a folder of class folders of images or of "
    "sound, parquet files, the folder of Speech Commands, event recordings (.bin) in Train and Test or "
    "their archives, or the name of a data set on the Hugging Face hub"
)


@dataclass(frozen=True)
class FrontEnds:
    """Front ends of recordings: sound becomes features, events so many frames (a frame for each of ``timesteps``)."""

    audio: LogMel = field(default_factory=LogMel)
    events: EventFrames = field(default_factory=EventFrames)
    timesteps: int = 1


class DataSettings(BaseModel):
    """Which data set, which of its rows, and how large its images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        default="digits", min_length=1, description=f"the data set: {EXPECTED.removeprefix('expected ')}"
    )
    train_limit: int | None = Field(
        default=None,
        ge=1,
        description="use only this many training rows, evenly from all classes; validation is cut from them",
    )
    test_limit: int | None = Field(
        default=None, ge=1, description="use only this many test rows, evenly from all classes"
    )
    validation_fraction: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of the training rows set aside for the search, where the data has no own",
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="share of all rows set aside for the test, where the data has no test rows"
    )
    group_pattern: str | None = Field(
        default=None,
        description="regular expression with one group, for example '([0-9a-f]+)_nohash', searched in the name of each "
        "file below its folder: files for which the group is the same text (a speaker, say) stay in one split",
    )
    image_column: str | None = Field(default=None, description="column with the images; found by itself if left out")
    audio_column: str | None = Field(default=None, description="column with the sound; found by itself if left out")
    label_column: str | None = Field(default=None, description="column with the labels; found by itself if left out")
    size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="rescale images to this many pixels in height and width; left out, images of one size stay as they "
        "are, and those of mixed sizes get one that fits them",
    )
    commands: Literal[12, 35] | None = Field(
        default=None,
        description="classes of Speech Commands: 12 (ten words, silence, unknown) or 35 (all words); "
        "its folder is read so, other data must have so many",
    )

    @field_validator("group_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"a regular expression with one group (…) is expected, and this has {groups}")
        return pattern
