"""Outputs and reports that ``ecea-run`` refuses: what would take the place of what is read, or has no place."""

import shutil
from typing import Any

import pytest

Desk = Any  # what the fixture of that name gives
OUT = ("-o", "out/filled.tif")


def test_the_output_is_the_scene(desk: Desk) -> None:
    assert desk.refusal("scene.tif", "-o", "scene.tif").startswith("scene.tif: is the scene itself")
    (desk.folder / "link.tif").symlink_to("scene.tif")
    assert desk.refusal("scene.tif", "-o", "link.tif").startswith("link.tif: is the scene itself")
    assert desk.refusal("link.tif", "-o", "scene.tif").startswith("scene.tif: is the scene itself")
    (desk.folder / "second_name.tif").hardlink_to(desk.folder / "scene.tif")
    assert desk.refusal("scene.tif", "-o", "second_name.tif").startswith("second_name.tif: is the scene itself")


def test_the_output_is_another_scene(desk: Desk) -> None:
    shutil.copy(desk.folder / "scene.tif", desk.folder / "scene_filled.tif")
    sentence = desk.refusal("scene.tif", "scene_filled.tif")
    assert sentence.startswith("scene_filled.tif: is itself one of the scenes")


def test_two_scenes_with_one_output(desk: Desk) -> None:
    (desk.folder / "other").mkdir()
    shutil.copy(desk.folder / "scene.tif", desk.folder / "other" / "scene.tif")
    sentence = desk.refusal("scene.tif", "other/scene.tif", "-o", "out")
    assert sentence.startswith("out/scene_filled.tif: is the output of 2 scenes")


def test_several_scenes_and_one_file(desk: Desk) -> None:
    shutil.copy(desk.folder / "scene.tif", desk.folder / "second.tif")
    sentence = desk.refusal("scene.tif", "second.tif", *OUT)
    assert sentence.startswith("out/filled.tif: is not a folder, as 2 scenes need")


def test_no_output_folder(desk: Desk) -> None:
    assert desk.refusal("scene.tif", "-o", "absent/filled.tif").startswith(
        "absent/filled.tif: the folder absent does not exist"
    )
    assert desk.refusal("scene.tif", "-o", "absent/").startswith("absent/: the folder does not exist")


def test_a_report_with_no_place(desk: Desk) -> None:
    sentence = desk.refusal("scene.tif", *OUT, "--report", "absent/page.html")
    assert sentence.startswith("absent/page.html: the folder absent does not exist")


def test_a_report_in_the_place_of_a_raster(desk: Desk) -> None:
    """Whose name may end as a page's does."""
    desk.write_scene("scene.html", desk.values, nodata=0)
    for scene, options in (("scene.html", ()), ("scene.tif", ("--mask", "scene.html"))):
        sentence = desk.refusal(scene, *OUT, *options, "--report", "scene.html")
        assert sentence.startswith("scene.html: is read in this run, so it is not overwritten")
    for page in ("out/filled.html", "out/../out/filled.html"):
        sentence = desk.refusal("scene.tif", "-o", "out/filled.html", "--report", page)
        assert sentence.startswith(f"{page}: is an output of this run")


@pytest.mark.parametrize(
    ("count", "options"), [(3, ("--mask", "zero")), (3, ("--reference",)), (1, ("--mask", "zero", "--bands", "1,1,1"))]
)
def test_the_output_is_what_another_scene_is_read_from(count: int, options: tuple[str, ...], desk: Desk) -> None:
    shutil.copy(desk.folder / "scene.tif", desk.folder / "scene_filled.tif")
    band = '<SimpleSource><SourceFilename relativeToVRT="1">scene_filled.tif</SourceFilename></SimpleSource>'
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{index}">{band}</VRTRasterBand>' for index in range(1, count + 1)
    )
    (desk.folder / "stack.vrt").write_text(f'<VRTDataset rasterXSize="70" rasterYSize="40">{bands}</VRTDataset>')
    sentence = desk.refusal("scene.tif", "stack.vrt", *options)
    assert sentence.startswith("scene_filled.tif: is read in this run, so it is not overwritten")


def test_a_name_too_long_for_the_file_system(desk: Desk) -> None:
    sentence = desk.refusal("scene.tif", "-o", f"{'b' * 252}.tif")
    assert sentence.endswith("is too long a name for the file system: name another output")


def test_a_report_that_is_no_page(desk: Desk) -> None:
    """It is told before any scene is looked at."""
    sentence = desk.refusal("absent.tif", *OUT, "--report", "page.tif")
    assert sentence == "page.tif: does not end in .html: name it NAME.html"


def test_links_of_two_scenes_that_lead_to_one_file(desk: Desk) -> None:
    """What was filled first would be lost."""
    shutil.copy(desk.folder / "scene.tif", desk.folder / "second.tif")
    for name in ("scene", "second"):
        (desk.folder / f"{name}_filled.tif").symlink_to("out/both.tif")
    sentence = desk.refusal("scene.tif", "second.tif")
    assert sentence == "scene_filled.tif: is the output of 2 scenes: run them one by one with -o"


def test_links_that_lead_to_one_another(desk: Desk) -> None:
    for name, other in (("a.tif", "b.html"), ("b.html", "a.tif")):
        (desk.folder / name).symlink_to(other)
    sentence = desk.refusal("scene.tif", "-o", "a.tif", "--report", "b.html")
    assert sentence == "b.html: is a link that leads to itself: remove it, or name another output"
