"""Random gym scenes for training: another room, camera, light, people and equipment for every seed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gymscene import equipment, motions
from gymscene.body import Joints, Look, Posture, solve
from gymscene.brush import Brush, Colour, Image
from gymscene.camera import Camera, Floats, looking_at
from gymscene.lens import random_flaws, spoil
from gymscene.room import paint_room, random_colour, random_room
from gymscene.scene import SUPERSAMPLING, Item, Label, Person, Scene, render

_SHAPES = ((256, 256), (256, 192), (256, 144), (192, 256))
_SHAPE_SHARES = (0.27, 0.3, 0.28, 0.15)


@dataclass(frozen=True, slots=True)
class Variety:
    """How much the scenes differ: who is in them, how they stand, how the camera frames them."""

    people: tuple[float, float, float]
    """Shares of the pictures with nobody, one and two people."""
    turned: float
    """Share of the people who face anywhere, their back to the camera included."""
    facing: float
    """Standard deviation of the turn of all others away from the camera, in radians; three quarters of a right
    angle at most where nobody is `turned`."""
    tall: tuple[float, float]
    """Share of the picture's height that 1.75 m take."""
    aside: float
    """How far from the middle the first mannequin may stand, in metres."""
    apart: tuple[float, float]
    """How far from it a second one may stand, sideways."""


WIDE = Variety(people=(0.07, 0.73, 0.2), turned=0.3, facing=0.7, tall=(0.6, 0.97), aside=0.4, apart=(0.8, 1.6))
"""Backs, bodies that the picture's edge cuts off, people before people: what features are best learnt on."""
GYM = Variety(people=(0.07, 0.83, 0.1), turned=0.0, facing=0.5, tall=(0.5, 0.78), aside=0.25, apart=(0.7, 1.1))
"""What a camera in a home gym sees: somebody who trains before it, from head to foot."""
RACK = Variety(people=(0.25, 0.65, 0.1), turned=0.3, facing=0.7, tall=(0.95, 1.5), aside=0.4, apart=(0.8, 1.6))
"""Nearer, for equipment: a dumbbell of 30 cm is about 25 of 256 px wide, as the rack's camera sees it at 640 px."""
_MOST_TURNED = 3 * np.pi / 8


@dataclass(frozen=True, slots=True)
class _Act:
    """A motion and what the mannequin holds while it does it."""

    motion: Callable[[np.random.Generator, float], Posture]
    holds: str


_BAR_ON_BACK = np.array([[0.2, 0.03, -0.02], [-0.2, 0.03, -0.02]])
_ACTS = (
    _Act(lambda r, p: motions.squat(p, r.uniform(0.5, 1.05)), ""),
    _Act(lambda r, p: motions.squat(p, r.uniform(0.5, 1.05)), ""),
    _Act(lambda r, p: motions.squat(p, r.uniform(0.5, 1.0), motions.arms(0.12, 0.05)), "dumbbells"),
    _Act(lambda r, p: motions.squat(p, r.uniform(0.5, 1.0), _goblet()), "kettlebell"),
    _Act(lambda r, p: motions.squat(p, r.uniform(0.5, 1.0), _BAR_ON_BACK), "barbell on back"),
    _Act(lambda _, p: motions.jumping_jack(p), ""),
    _Act(lambda _, p: motions.jumping_jack(p), ""),
    _Act(lambda r, p: motions.curl(p, (bool(r.random() < 0.7), True)), "dumbbells"),
    _Act(lambda r, p: motions.curl(p, (True, bool(r.random() < 0.7))), "dumbbells"),
    _Act(lambda _, p: motions.curl(p), "barbell"),
    _Act(lambda _, p: motions.overhead_press(p), "dumbbells"),
    _Act(lambda _, p: motions.overhead_press(p), "barbell"),
    _Act(lambda _, p: motions.lift(p, 0.08), "barbell"),
    _Act(lambda _, p: motions.lift(p, -0.13), "kettlebell"),
    _Act(lambda _, p: motions.swing(p), "kettlebell"),
    _Act(lambda r, _: motions.standing(motions.arms(r.uniform(0.05, 0.5), r.uniform(0, 0.5))), ""),
    _Act(lambda r, _: motions.standing(motions.arms(0.1, r.uniform(0, 0.3))), "one kettlebell"),
    _Act(lambda r, _: motions.walking(r.uniform(0, 4), 0.6), ""),
    _Act(lambda r, _: motions.walking(r.uniform(0, 4), 0.6), "one kettlebell"),
    _Act(lambda r, _: motions.free(r), ""),
    _Act(lambda r, _: motions.free(r), "dumbbells"),
)


def _goblet() -> Floats:
    return np.array([[-0.11, -0.14, 0.22], [0.11, -0.14, 0.22]])


def random_picture(seed: tuple[int, ...], variety: Variety = GYM) -> tuple[Image, list[Label]]:
    """Render the picture (h, w, 3) of one seed, its longer side 256 px, and its labels; a seed gives the same again."""
    rng = np.random.default_rng(seed)
    scene = _empty_scene(rng, variety)
    count = int(rng.choice(3, p=variety.people))
    spots = [np.array([rng.uniform(-variety.aside, variety.aside), 0.0, rng.uniform(2.4, 3.2)])]
    spots.append(spots[0] + [rng.choice([-1, 1]) * rng.uniform(*variety.apart), 0.0, rng.uniform(-0.2, 1.4)])
    for spot in spots[:count]:
        _add_person(scene, spot, rng, variety)
    _add_still_life(scene, rng)
    picture, labels = render(scene)
    return spoil(picture, random_flaws(rng), rng), labels


def _empty_scene(rng: np.random.Generator, variety: Variety) -> Scene:
    size = _SHAPES[int(rng.choice(len(_SHAPES), p=_SHAPE_SHARES))]
    room = random_room(rng)
    distance = float(rng.uniform(-0.3, 1.6))
    target = np.array([rng.normal(0, 0.2), rng.uniform(0.75, 1.1), 2.8])
    position = np.array([rng.normal(0, 0.7), rng.uniform(0.6, 2.2), -distance])
    tall = float(rng.uniform(*variety.tall)) * min(size[1], 1.25 * size[0])
    focal = tall / 1.75 * float(np.linalg.norm(target - position))
    camera = looking_at(position, target, roll=float(rng.normal(0, 0.03)), focal_px=focal, size=size)
    large = Camera(
        camera.position, camera.yaw, camera.pitch, camera.roll, focal * SUPERSAMPLING,
        (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING),
    )  # fmt: skip
    turn, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8)
    light = (float(np.cos(turn) * strength), float(-abs(np.sin(turn)) * strength))
    return Scene(camera, paint_room(room, large, rng), light)


def random_look(rng: np.random.Generator) -> Look:
    """Return a mannequin of any size, girth, skin and clothes; some are all of one colour, as shop mannequins are."""
    tone = float(rng.uniform(0.3, 1.0))
    skin = (165 * tone + rng.normal(0, 6), 190 * tone + rng.normal(0, 6), 235 * tone + rng.normal(0, 6))
    if rng.random() < 0.12:
        skin = random_colour(rng, 60, 235, saturation=0.6)
    return Look(
        skin=skin,
        hair=random_colour(rng, 15, 140, saturation=0.4),
        shirt=random_colour(rng, 20, 240),
        trousers=random_colour(rng, 20, 210),
        shoes=random_colour(rng, 20, 245),
        size=float(rng.uniform(0.88, 1.1)),
        girth=float(rng.uniform(0.85, 1.3)),
        long_sleeves=bool(rng.random() < 0.35),
        long_trousers=bool(rng.random() < 0.55),
        bald=bool(rng.random() < 0.15),
    )


def _add_person(scene: Scene, place: Floats, rng: np.random.Generator, variety: Variety) -> None:
    act = _ACTS[int(rng.integers(len(_ACTS)))]
    posture = act.motion(rng, float(rng.uniform(0, 1)))
    spread = float(rng.uniform(0, 0.15))
    posture = posture.blended(motions.free(rng), spread) if not act.holds else posture
    anywhere = rng.random() < variety.turned
    facing = float(rng.uniform(-np.pi, np.pi)) if anywhere else float(rng.normal(0, variety.facing))
    if variety.turned == 0.0:
        facing = float(np.clip(facing, -_MOST_TURNED, _MOST_TURNED))
    look = random_look(rng)
    joints = solve(posture, look.size, place, facing)
    scene.people.append(Person(joints, look))
    scene.shadows.append((place, 0.36 * look.size))
    scene.items.extend(held(act.holds, joints, equipment_looks(rng)))


@dataclass(frozen=True, slots=True)
class EquipmentLooks:
    """Sizes in metres and colours of what one mannequin holds."""

    dumbbell_size: float
    kettlebell_size: float
    plates: Floats
    colour: Colour


def equipment_looks(rng: np.random.Generator) -> EquipmentLooks:
    """Return equipment of any size; mostly dark, at times bright."""
    bright = rng.random() < 0.45
    return EquipmentLooks(
        dumbbell_size=float(rng.uniform(0.06, 0.1)),
        kettlebell_size=float(rng.uniform(0.09, 0.135)),
        plates=rng.uniform(0.12, 0.225, int(rng.integers(1, 4))),
        colour=random_colour(rng, 30, 230) if bright else random_colour(rng, 22, 75, saturation=0.3),
    )


def held(what: str, joints: Joints, looks: EquipmentLooks) -> list[Item]:
    """Return what a mannequin holds in its hands."""
    grips = 0.35 * joints.wrists + 0.65 * joints.fingers
    forearms = joints.wrists - joints.elbows
    left = joints.shoulders[0] - joints.shoulders[1]
    between = grips.mean(axis=0)
    if what == "dumbbells":
        forward = np.cross(left, [0.0, 1.0, 0.0])
        axes = [forward if abs(f[1]) > 0.17 else left for f in forearms]
        return [_dumbbell(g, a, looks) for g, a in zip(grips, axes, strict=True)]
    if what == "kettlebell":
        hang = -(between - joints.shoulders.mean(axis=0))
        return [_kettlebell(between, np.array([0.0, 1.0, 0.0]) if hang[1] > 0 else hang, left, looks)]
    if what == "one kettlebell":
        return [_kettlebell(grips[0], np.array([0.0, 1.0, 0.0]), np.cross(left, [0.0, 1.0, 0.0]), looks)]
    if what == "barbell on back":
        return [_barbell(joints.shoulders.mean(axis=0) + np.array([0.0, 0.06, 0.0]), left, looks)]
    return [_barbell(between, grips[0] - grips[1], looks)] if what == "barbell" else []


def _dumbbell(middle: Floats, axis: Floats, looks: EquipmentLooks) -> Item:
    def draw(brush: Brush, owner: int) -> None:
        equipment.dumbbell(brush, middle, axis, looks.dumbbell_size, looks.colour, owner)

    return Item(equipment.DUMBBELL, draw)


def _kettlebell(grip: Floats, up: Floats, across: Floats, looks: EquipmentLooks) -> Item:
    def draw(brush: Brush, owner: int) -> None:
        equipment.kettlebell(brush, grip, up, across, looks.kettlebell_size, looks.colour, owner)

    return Item(equipment.KETTLEBELL, draw)


def _barbell(middle: Floats, axis: Floats, looks: EquipmentLooks) -> Item:
    def draw(brush: Brush, owner: int) -> None:
        equipment.barbell(brush, middle, axis, looks.plates, looks.colour, owner)

    return Item(equipment.BARBELL, draw)


def _add_still_life(scene: Scene, rng: np.random.Generator) -> None:
    """Put equipment and furniture into the room that nobody holds."""
    for _ in range(int(rng.integers(0, 4))):
        _add_floor_item(scene, rng)
    if rng.random() < 0.3:
        _add_shelf(scene, rng)
    if rng.random() < 0.25:
        _add_barbell_stand(scene, rng)
    if rng.random() < 0.25:
        place, turn, colour = _spot(rng, 2.6, 5.0), float(rng.uniform(0, np.pi)), random_colour(rng, 20, 120)
        scene.furniture.append(lambda brush: equipment.bench(brush, place, turn, colour))
        scene.shadows.append((place, 0.4))
    for _ in range(int(rng.integers(0, 3))):
        _add_loose_plate(scene, rng)


def _spot(rng: np.random.Generator, near: float = 1.9, far: float = 4.0) -> Floats:
    return np.array([rng.uniform(-1.9, 1.9), 0.0, rng.uniform(near, far)])


def _add_loose_plate(scene: Scene, rng: np.random.Generator) -> None:
    place, turn, radius = _spot(rng, 3.0, 4.5), float(rng.uniform(0, np.pi)), float(rng.uniform(0.12, 0.22))
    colour = random_colour(rng, 20, 200)
    scene.furniture.append(lambda brush: equipment.loose_plate(brush, place, turn, radius, colour))


def _add_floor_item(scene: Scene, rng: np.random.Generator) -> None:
    place, looks = _spot(rng), equipment_looks(rng)
    turn = float(rng.uniform(0, 2 * np.pi))
    axis = np.array([np.cos(turn), 0.0, np.sin(turn)])
    kind = rng.choice(3, p=(0.42, 0.42, 0.16))
    up = np.array([0.0, 1.0, 0.0])
    if kind == 0:
        scene.items.append(_dumbbell(place + looks.dumbbell_size * up, axis, looks))
    elif kind == 1:
        grip = place + equipment.kettlebell_height(looks.kettlebell_size) * up
        scene.items.append(_kettlebell(grip, up, axis, looks))
    else:
        scene.items.append(_barbell(place + float(looks.plates.max()) * up, axis * [1, 1, 0.5], looks))
    scene.shadows.append((place, 0.14))


def _add_barbell_stand(scene: Scene, rng: np.random.Generator) -> None:
    place, turn = _spot(rng, 2.9, 4.4), float(rng.normal(0, 0.4))
    height, colour, looks = float(rng.uniform(0.7, 1.4)), random_colour(rng, 20, 160), equipment_looks(rng)
    scene.furniture.append(lambda brush: equipment.stand(brush, place, turn, height, colour))
    axis = np.array([np.cos(turn), 0.0, np.sin(turn)])
    scene.items.append(_barbell(place + np.array([0.0, height + 0.03, 0.0]), axis, looks))


def _add_shelf(scene: Scene, rng: np.random.Generator) -> None:
    place, turn = _spot(rng, 2.9, 4.2), float(rng.normal(0, 0.35))
    width, colour = float(rng.uniform(0.9, 1.6)), random_colour(rng, 25, 140, saturation=0.3)
    scene.furniture.append(lambda brush: equipment.shelf(brush, place, turn, width, colour))
    scene.shadows.append((place, 0.5 * width))
    along, across = np.array([np.cos(turn), 0.0, np.sin(turn)]), np.array([-np.sin(turn), 0.0, np.cos(turn)])
    up = np.array([0.0, 1.0, 0.0])
    for height in equipment.SHELF_HEIGHTS:
        for share in np.linspace(-0.4, 0.4, int(rng.integers(1, 5))):
            looks, spot = equipment_looks(rng), place + height * up + share * width * along
            if rng.random() < 0.65:
                scene.items.append(_dumbbell(spot + looks.dumbbell_size * up, across, looks))
            else:
                grip = spot + equipment.kettlebell_height(looks.kettlebell_size) * up
                scene.items.append(_kettlebell(grip, up, along, looks))
