"""The data sets by name: how each is listed, and what is known of it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from cass_tune.config import Data
from cass_tune.data.folder import brain_mri_listing, dermofit_listing, folder_listing
from cass_tune.data.index import Progress, no_progress
from cass_tune.data.isic import isic_2019_listing
from cass_tune.data.listing import Listing, Split
from cass_tune.data.medmnist import PREFIX, medmnist_listing
from cass_tune.data.medmnist_sets import SETS
from cass_tune.data.table import csv_listing
from cass_tune.errors import UsageError, did_you_mean

Lister = Callable[[Data, Progress], Listing]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a data set. Nothing is filled in that no source says.

    Args:
        listing: lists the images on disk.
        title: what it is.
        task: what is asked about an image, and the parts that it brings.
        licence: of the images.
        obtain: how to get it.
        images: how many there are.
        counts: images by part and class, as published.
        labels: names of its classes, or of the labels that an image may have.
        mean: of the channels between 0 and 1, as published.
        std: the same.
        published_weights: class weights of CASS's code. They are the wrong way round (the commonest class weighs most),
            and are shown, never used.
        source: of these numbers.
    """

    listing: Lister
    title: str
    task: str
    licence: str = "yours"
    obtain: str = ""
    images: int | None = None
    counts: Mapping[Split, Mapping[str, int]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    published_weights: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


def _phantom(data: Data, progress: Progress) -> Listing:
    from cass_tune.data.phantom import phantom_listing

    return phantom_listing()


_ISIC_2019 = ("NV", "MEL", "BCC", "BKL", "AK", "SCC", "VASC", "DF")
_AUTOIMMUNE = ("b", "tfh", "tfh217", "tfhl", "other")


def _autoimmune(data: Data, progress: Progress) -> Listing:
    columns = data.label_columns or ",".join(_AUTOIMMUNE)
    return csv_listing(dataclasses.replace(data, label_columns=columns), progress)


CATALOGUE: Mapping[str, Entry] = {
    "phantom": Entry(
        listing=_phantom,
        title="synthetic images that look like brain MRI, for demonstrations and tests",
        task="4 classes; training and test parts",
        licence="Apache-2.0, as this program",
        obtain="made when it is opened; it needs no --data.root",
        images=600,
    ),
    "brain_mri": Entry(
        listing=brain_mri_listing,
        title="Brain Tumor MRI (Kaggle masoudnickparvar/brain-tumor-mri-dataset)",
        task="4 classes; official training and test parts",
        licence="CC0 according to a copy of its Kaggle page",
        obtain="download it from Kaggle; --data.root is the folder with Training/ and Testing/",
        images=7023,
        labels=("glioma", "meningioma", "notumor", "pituitary"),
        counts={
            "train": {"glioma": 1321, "meningioma": 1339, "notumor": 1595, "pituitary": 1457},
            "test": {"glioma": 300, "meningioma": 306, "notumor": 405, "pituitary": 300},
        },
        mean=(0.1857, 0.1857, 0.1858),
        std=(0.2018, 0.2018, 0.2018),
        published_weights={"glioma": 0.2, "pituitary": 0.597, "notumor": 1.0, "meningioma": 0.2526},
        source="counts, weights: CASS's code; mean, std: a reproduction at 384 px (TonyDeng1997/CASS_UIUC598DLH)",
    ),
    "isic2019": Entry(
        listing=isic_2019_listing,
        title="ISIC 2019, dermoscopy",
        task="8 classes; a test part of whole lesions is drawn from the training images, as CASS's authors drew theirs",
        licence="CC BY-NC 4.0 (not for commercial use)",
        obtain=(
            "download the training data from challenge.isic-archive.com; --data.root is the folder with "
            "ISIC_2019_Training_Input/, ISIC_2019_Training_GroundTruth.csv and ISIC_2019_Training_Metadata.csv"
        ),
        images=25331,
        labels=_ISIC_2019,
        published_weights=dict(
            zip(_ISIC_2019, (1.0, 0.4717, 0.3952, 0.3535, 0.2405, 0.2242, 0.2013, 0.2), strict=True)
        ),
        source="weights: CASS's code",
    ),
    "dermofit": Entry(
        listing=dermofit_listing,
        title="Dermofit Image Library, University of Edinburgh",
        task="10 classes; a test part is drawn",
        licence="paid, for research; from Edinburgh Innovations",
        obtain=(
            "buy a licence (licensing.edinburgh-innovations.ed.ac.uk/product/dermofit-image-library); --data.root is a "
            "folder with one folder of images per class; files whose names end in 'mask' are left out"
        ),
        images=1300,
        labels=("AK", "BCC", "DF", "IEC", "MEL", "ML", "PYO", "SCC", "SK", "VASC"),
        source="images and classes: CASS's paper; their names: the notes of LuoyaoChen/DEDL_Semisupervised",
    ),
    "autoimmune": Entry(
        listing=_autoimmune,
        title="autofluorescence of autoimmune diseases (Van Buren et al. 2022)",
        task="5 labels, of which an image has any number; the parts that your table gives, or a drawn test part",
        licence="private",
        obtain=(
            "ask its authors; --data.root is the folder of the images, with a table labels.csv: path, a column of 0 "
            f"and 1 for each of {', '.join(_AUTOIMMUNE)}, optionally split and group"
        ),
        images=198,
        labels=_AUTOIMMUNE,
        published_weights=dict(zip(_AUTOIMMUNE, (0.9475, 0.4934, 0.5029, 0.2, 1.0), strict=True)),
        source="labels and weights: the same authors' code (DEDL)",
    ),
    "folder": Entry(
        listing=folder_listing,
        title="your own folders",
        task="any number of classes; the parts that are there",
        obtain="--data.root is a folder with train/, test/ and optionally val/, each with a folder of images per class",
    ),
    "csv": Entry(
        listing=csv_listing,
        title="your own table",
        task="any number of classes (--data.label-column), or several labels for each image (--data.label-columns)",
        obtain="--data.root is the folder of the images; the table has columns path, label, optionally split, group",
    ),
}
"""Every set but those of MedMNIST; a new one is one more entry."""


def entry_of(name: str) -> Entry | None:
    """Return what is known of a data set; None for a function of yours, or an unknown name."""
    known = SETS.get(name.removeprefix(PREFIX).partition("_")[0])
    if not name.startswith(PREFIX) or known is None:
        return CATALOGUE.get(name)
    kind = "labels, of which an image has any number" if known.task == "multi-label" else "classes"
    kind = f"grades, taken as {kind}" if known.is_ordinal else kind
    solid = "volumes, " if known.spatial_dims == 3 else ""
    return Entry(
        listing=medmnist_listing,
        title=f"MedMNIST, {name.removeprefix(PREFIX)}",
        task=f"{solid}{len(known.labels)} {kind}; official parts",
        licence=known.licence,
        obtain="download the npz file from zenodo.org/records/10519652; --data.root is its folder",
        images=sum(known.images.values()),
        labels=known.labels,
        source="the official medmnist/info.py, version 3",
    )


def list_images(data: Data, progress: Progress = no_progress) -> Listing:
    """Return the usable images of a data set.

    Args:
        data: its name (a key of `CATALOGUE`, ``medmnist:<name>``, or ``module:function`` for your own), place and
            options.
        progress: called with the numbers of files examined and of all files.

    Raises:
        UsageError: the name is unknown, or something in the data is missing or wrong.
    """
    if data.name.startswith(PREFIX):
        return medmnist_listing(data, progress)
    if ":" in data.name:
        return dataclasses.replace(_own(data.name)(data, progress), name=short_name(data.name))
    entry = CATALOGUE.get(data.name)
    if entry is None:
        raise UsageError(
            f"--data.name must be one of {', '.join(CATALOGUE)}, {PREFIX}NAME, or your own as module:function, but got "
            f"{data.name!r}.{did_you_mean(data.name, [*CATALOGUE, *(PREFIX + name for name in SETS)])}"
        )
    return entry.listing(data, progress)


def short_name(name: str) -> str:
    """Return the name by which a data set's results are filed: that of the function for your own."""
    return name.rpartition(":")[2]


def _own(name: str) -> Lister:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # of a module that is not ours
        raise UsageError(
            f"--data.name {name} cannot be used: {type(error).__name__}: {error}. Give module:function of a module "
            "that Python can import here and on every machine that runs trials (the working folder, or PYTHONPATH)."
        ) from error
    if not callable(found):
        raise UsageError(
            f"--data.name {name} must be a function that takes the `Data` section and returns a `Listing`."
        )
    return cast("Lister", found)
