"""Sources, scenes, folds and tiles."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecea.runtime.edges import edge_map, gray
from ecea.runtime.errors import RequestError
from ecea.runtime.sample import terrain
from ecea.runtime.stretch import GENERATOR_CEILING, Stretch
from ecea.training.data.augment import augment, parse_augmentations
from ecea.training.data.gaps import GapRecipe
from ecea.training.data.scenes import load_scene
from ecea.training.data.tiles import EpochBatches, TileRecipe, Tiles, join_tiles, make_tile
from ecea.training.folds import GROUPS
from ecea.training.sources import Source, find_sources

STRIPES = GapRecipe((("slc-off", 1.0),))


def test_patches_of_a_folder_belong_to_scenes(write):
    for name in ("a_1", "a_2", "b_c_1", "b_d_1", "a_1_mask"):
        folder = write(f"patches/{name}.tif", np.ones((3, 64, 64), np.uint8)).parent
    (folder / "notes.txt").write_text("no raster")
    scenes = {group: [source.scene for source in find_sources([str(folder)], group=group)] for group in GROUPS}
    assert scenes == {
        "number": ["a", "a", "b_c", "b_d"],
        "prefix": ["a", "a", "b", "b"],
        "folder": [str(folder.resolve())] * 4,
    }


def test_a_list_names_scenes_bands_and_stretches(tmp_path, write):
    write("one.tif", np.ones((4, 64, 64), np.uint8))
    write("more/x.tif", np.ones((3, 64, 64), np.uint8))
    listed = tmp_path / "data.toml"
    listed.write_text(
        '[[source]]\npath = "one.tif"\nscene = "peru"\nbands = [[3,2,1],[4,3,2]]\nstretch = [0, 4000, 1]\n'
        '[[source]]\npath = "more"\n'
    )
    found = find_sources([str(listed)])
    assert [(source.scene, source.bands) for source in found[:2]] == [("peru", (3, 2, 1)), ("peru", (4, 3, 2))]
    assert found[0].stretch == Stretch(0, 4000, 1)
    assert found[2].path.endswith("more/x.tif")
    assert found[2].scene == "x"
    assert found[2].stretch is None


def test_a_mask_is_looked_for_where_the_user_is_unless_a_list_names_it(tmp_path, write, monkeypatch):
    for name in ("here/clouds.tif", "lists/clouds.tif", "lists/one.tif"):
        write(name, np.ones((3, 64, 64), np.uint8))
    listed = tmp_path / "lists" / "data.toml"
    listed.write_text('[[source]]\npath = "one.tif"\n[[source]]\npath = "one.tif"\nmask = "clouds.tif"\n')
    monkeypatch.chdir(tmp_path / "here")
    masks = [source.mask for source in find_sources([str(listed)], mask="clouds.tif")]
    assert masks == ["clouds.tif", str(tmp_path / "lists" / "clouds.tif")]
    with pytest.raises(RequestError, match=r"^mask 'nodat' is neither nodata, zero, none nor a raster that"):
        find_sources([str(listed)], mask="nodat")


def test_a_file_of_two_scenes_is_refused(tmp_path, write):
    """It would be held out and learned from."""
    one = write("one.tif", np.ones((3, 64, 64), np.uint8))
    listed = tmp_path / "data.toml"
    entry = '[[source]]\npath = "one.tif"\nscene = "{}"\nbands = [1, 1, 1]\n'
    listed.write_text(entry.format("peru") + entry.format("peru").replace("1, 1, 1", "3, 2, 1"))
    assert [source.scene for source in find_sources([str(listed)])] == ["peru", "peru"]
    listed.write_text(entry.format("peru") + entry.format("chile"))
    with pytest.raises(RequestError, match=r"one\.tif: is named for the scene 'chile', and for the scene 'peru'"):
        find_sources([str(listed)])
    (tmp_path / "other.tif").symlink_to(one)
    with pytest.raises(RequestError, match=r"other\.tif: is named for the scene 'other', and as .*one\.tif for the"):
        find_sources([str(one), str(tmp_path / "other.tif")])


@pytest.mark.parametrize(
    "text",
    ["no toml", "x = 1\n", '[[source]]\nscene = "a"\n', '[[source]]\npath = "a"\ngamma = 2\n',
     '[[source]]\npath = "a"\nstretch = ["b"]\n'],
)  # fmt: skip
def test_a_list_that_is_none_is_one_sentence(text, tmp_path):
    listed = tmp_path / "data.toml"
    listed.write_text(text)
    with pytest.raises(RequestError, match=r"data\.toml: .*expected tables \[\[source\]\]"):
        find_sources([str(listed)])


def test_an_empty_folder_and_an_unknown_group_are_refused(tmp_path, patches):
    with pytest.raises(RequestError, match="holds no raster"):
        find_sources([str(tmp_path)])
    with pytest.raises(RequestError, match="expected one of number, prefix, folder"):
        find_sources([str(patches)], group="tile")


def test_tiles_are_cut_where_all_is_clean(write):
    values = (terrain(150, 170, seed=3) * 9000 + 1000).astype(np.uint16)
    values[:, 70:74, :120] = 0
    values[1, 10, 150] = 0  # one band alone
    scene = load_scene(Source(str(write("a.tif", values, nodata=0)), "a"), 64)
    rng = np.random.default_rng(0)
    for _ in range(200):
        tile, (row, column) = scene.cut(rng)
        cut = values[:, row : row + 64, column : column + 64]
        assert cut.all()
        np.testing.assert_array_equal(tile, scene.stretch.to_unit(cut))
    assert np.percentile(scene.stretch.to_unit(values[:, values.all(axis=0)]), 99) <= GENERATOR_CEILING


def test_nothing_declared_means_clean_all_over_unless_zeros_are_none(write):
    values = np.ones((3, 64, 80), np.uint8)
    values[:, 30, 70] = 0
    path = str(write("a.tif", values))
    assert len(load_scene(Source(path, "a"), 64).corners) == 17
    assert len(load_scene(Source(path, "a", mask="zero"), 64).corners) == 7
    declared = str(write("b.tif", values, nodata=0))
    assert len(load_scene(Source(declared, "b"), 64).corners) == 7
    assert len(load_scene(Source(declared, "b", mask="none"), 64).corners) == 17


def test_scenes_that_cannot_be_used_are_refused(write):
    small = write("small.tif", np.ones((3, 60, 90), np.uint8))
    with pytest.raises(RequestError, match=r"small\.tif: is 90 x 60 px, smaller than a tile of 64 px"):
        load_scene(Source(str(small), "a"), 64)
    holes = np.ones((3, 100, 100), np.uint8)
    holes[:, ::30] = 0
    with pytest.raises(RequestError, match="has no tile of 64 px without missing pixels"):
        load_scene(Source(str(write("holes.tif", holes, nodata=0)), "a"), 64)
    image = write("image.tif", np.ones((3, 100, 100), np.uint8))
    mask = write("mask.tif", np.zeros((1, 90, 100), np.uint8))
    with pytest.raises(RequestError, match="mask of 100 x 90 px, the scene has 100 x 100"):
        load_scene(Source(str(image), "a", mask=str(mask)), 64)


def test_the_only_clean_tile_of_a_large_scene_is_found(write):
    """Tiles are looked for on a grid there, which it may lie between."""
    values = np.zeros((3, 2500, 2500), np.uint8)
    values[:, 1000:1065, 904:969] = 9
    assert len(load_scene(Source(str(write("large.tif", values, nodata=0)), "a"), 64).corners) == 4


def tiles_of(write, **recipe):
    paths = [write(f"{seed}.tif", (terrain(96, 96, seed=seed) * 255).astype(np.uint8)) for seed in range(3)]
    scenes = [load_scene(Source(str(path), path.stem), 64) for path in paths]
    return Tiles(scenes, TileRecipe(STRIPES, **recipe))


def test_a_tile_is_the_same_whoever_makes_it_and_when(write):
    first, second = (tiles_of(write, augmentations=("flips", "jitter", "bands"), per_epoch=9) for _ in range(2))
    backwards = {place: second[3, place] for place in reversed(range(9))}
    for place in range(9):
        for name in ("image", "edge", "mask", "target", "target_edge"):
            assert torch.equal(first[3, place][name], backwards[place][name])
    assert not torch.equal(first[3, 0]["target"], first[4, 0]["target"])


def test_an_epoch_takes_scenes_in_turn_and_masks_in_another_order_each_time(write):
    masks = []
    for row in range(5):  # five masks that can be told apart
        mask = np.zeros((64, 64), bool)
        mask[30 : 31 + row] = True
        masks.append(mask)
    paths = [write(f"{seed}.tif", np.full((3, 64, 64), seed + 1, np.uint8)) for seed in range(5)]
    scenes = [load_scene(Source(str(path), path.stem), 64) for path in paths]
    tiles = Tiles(scenes, TileRecipe(GapRecipe((("files", 1.0),), tuple(masks))))
    assert len(tiles) == 5
    pairings = []
    for epoch in (1, 2, 3):
        drawn = [tiles[epoch, place] for place in range(5)]
        pairing = {tile["name"][0]: int(tile["mask"].sum()) // 64 for tile in drawn}
        assert len(pairing) == 5
        assert sorted(pairing.values()) == [1, 2, 3, 4, 5]
        pairings.append(pairing)
    assert pairings[0] != pairings[2]


@pytest.mark.parametrize("edges", ["clean", "filled"])
def test_edge_maps_are_the_published_ones(edges):
    image = terrain(64, 64, seed=5)
    missing = np.zeros((64, 64), bool)
    missing[20:27] = True
    tile = make_tile(image, missing, edges, "tile")
    levels = gray((image * 255 + 0.5).astype(np.uint8))
    sobel = np.sqrt(sum(cv2.Sobel(levels, cv2.CV_64F, *d, ksize=3) ** 2 for d in ((1, 0), (0, 1), (1, 1))))
    strength = 0.5 * cv2.Canny(levels, 50, 120) + 0.5 * sobel

    def scale(values):
        return (values - values.min()) / (values.max() - values.min())

    assert np.abs(tile["target_edge"][0].numpy() - scale(strength)).max() < 1e-6
    expected = scale(strength * ~missing) if edges == "clean" else edge_map(np.where(missing, 0, levels), missing)
    assert np.abs(tile["edge"][0].numpy() - expected).max() < 1e-6
    assert not tile["image"][:, torch.from_numpy(missing)].any()
    assert torch.equal(tile["image"][:, torch.from_numpy(~missing)], tile["target"][:, torch.from_numpy(~missing)])
    assert torch.equal(tile["mask"][0] == 1, torch.from_numpy(missing))


def test_batches_share_an_epoch_among_processes():
    shares = [list(EpochBatches(27, 4, rank, 3)) for rank in range(3)]
    keys = [key for share in shares for batch in share for key in batch]
    assert sorted(keys) == [(1, place) for place in range(24)]
    assert all(len(batch) == 4 for share in shares for batch in share)


def test_joined_tiles_are_a_batch(write):
    tiles = tiles_of(write)
    batch = join_tiles([tiles[1, 0], tiles[1, 1]])
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["edge"].shape == batch["mask"].shape == batch["target_edge"].shape == (2, 1, 64, 64)
    assert len(batch["name"]) == 2


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.1, 1.0))
def test_augmented_tiles_can_be_painted_where_they_could_before(seed, brightest):
    rng = np.random.default_rng(seed)
    image = (rng.random((3, 16, 16)) * brightest).astype(np.float32)
    changed = augment(image, ("flips", "jitter", "bands"), rng)
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= max(image.max(), GENERATOR_CEILING) + 1e-6
    laid = augment(image, ("flips",), rng)
    np.testing.assert_array_equal(np.sort(laid.ravel()), np.sort(image.ravel()))


@pytest.mark.parametrize("kind", ["flips", "jitter", "bands"])
def test_each_augmentation_changes_tiles(kind):
    image = np.random.default_rng(0).random((3, 16, 16)).astype(np.float32)
    changed = {augment(image, (kind,), np.random.default_rng(seed)).tobytes() for seed in range(60)}
    assert len(changed) == {"flips": 8, "jitter": 60, "bands": 6}[kind]


def test_augmentations_are_read_in_any_order():
    assert parse_augmentations("jitter, flips") == ("flips", "jitter")
    assert parse_augmentations("none") == ()
    with pytest.raises(RequestError, match="'blur' is unknown"):
        parse_augmentations("flips,blur")


def test_tiles_of_a_large_scene_are_cut_at_any_row_and_column(write):
    """Its places are too many to be kept; on a grid, a network would see some phases of its patches alone."""
    values = np.ones((3, 1500, 1500), np.uint8)
    values[:, :, 1000:] = 0
    scene = load_scene(Source(str(write("a.tif", values, nodata=0)), "a"), 64)
    rows, columns = np.divmod(scene.corners, 1500)
    assert columns.max() <= 1000 - 64
    assert len(scene.corners) > 100_000
    for places in (rows, columns):
        assert np.bincount(places % 8, minlength=8).min() > 0.9 * len(places) / 8
