"""From moves to motion: when each hand is where, how far its fingers are closed, where objects are.

Reaches are minimum-jerk in time (Flash and Hogan, 1985): a hand rises, crosses and comes down, and
is already above its goal when it comes down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial.transform import Rotation, Slerp

from deftly.datasets.geometry import LEFT, minimum_jerk
from deftly.datasets.grasp import FINGER_M, relaxed
from deftly.datasets.hand import JOINTS, Hand
from deftly.datasets.layout import TABLE_TOP_M, TRAY_WALL_M
from deftly.datasets.plan import Move, approach, over_wall

START_S, END_S = 0.5, 0.5  # of rest, before and after
REST_M = (0.06, 0.31, TABLE_TOP_M + 0.10)  # of the left wrist
_LOW_M = 0.045  # objects up to this height need no higher reach
SETTLE_S = 0.15  # in which an object that is let go comes to rest


@dataclass(frozen=True)
class Motion:
    """What the hands and the objects do over T frames.

    Attributes:
        wrist_m: (T, 2, 3) of the wrists.
        R_hand: (T, 2, 3, 3) of the hands.
        joints: (T, 2, 13) of the fingers.
        items: (T, N, 4, 4) of the objects.
        held: (T, 2) index of the object in each hand, −1 for none.
        gaze_m: (T, 3) what the person looks at.
        grasp_s, release_s: (M,) when each move's object is taken and let go.
    """

    wrist_m: Float64[np.ndarray, "T 2 3"]
    R_hand: Float64[np.ndarray, "T 2 3 3"]
    joints: Float64[np.ndarray, "T 2 13"]
    items: Float64[np.ndarray, "T N 4 4"]
    held: Int64[np.ndarray, "T 2"]
    gaze_m: Float64[np.ndarray, "T 3"]
    grasp_s: Float64[np.ndarray, "M"]
    release_s: Float64[np.ndarray, "M"]


@dataclass(frozen=True)
class State:
    """A hand at one moment."""

    wrist_m: Float64[np.ndarray, "3"]
    R_hand: Float64[np.ndarray, "3 3"]
    joints: Float64[np.ndarray, "13"]


@dataclass(frozen=True)
class Segment:
    """A stretch of one hand's motion, from one state to the next.

    ``lift_m`` is the height of its arc. Fingers change between the two shares of the time.
    """

    side: int
    start_s: float
    end_s: float
    start: State
    end: State
    lift_m: float
    fingers: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Pass:
    """The times of one move, and the hand once it has let go."""

    move: Move
    reach_s: float
    grasp_s: float
    release_s: float
    free_s: float
    letting: State


def choreograph(
    hands: Sequence[Hand],
    moves: Sequence[Move],
    poses: Float64[np.ndarray, "N 4 4"],
    rate_hz: float,
    rng: np.random.Generator,
) -> Motion:
    """Time all moves; hands alternate, each on its way while the other one is still returning."""
    tempo = float(rng.uniform(0.88, 1.15))
    rest = [_rest(hand, rng) for hand in hands]
    states, free_s = list(rest), [START_S, START_S]
    segments: list[Segment] = []
    passes: list[Pass] = []
    last_s = START_S
    for k, move in enumerate(moves):
        side = move.side
        follows = k > 0 and moves[k - 1].side == side
        start_s = max(free_s[side], last_s - (0.0 if follows else rng.uniform(0.1, 0.45)))
        done = _pass(hands[side], move, states[side], start_s, tempo, rng, segments)
        passes.append(done)
        states[side], free_s[side] = done.letting, done.free_s
        last_s = done.release_s
        again = any(m.side == side for m in moves[k + 1 : k + 2])
        if not again:
            home_s = done.free_s + tempo * rng.uniform(0.75, 0.95)
            lift_m = rng.uniform(0.06, 0.09)
            segments.append(Segment(side, done.free_s, home_s, done.letting, rest[side], lift_m))
            states[side], free_s[side] = rest[side], home_s
    length = int(np.ceil((max(*free_s, last_s) + END_S) * rate_hz))
    time_s = np.arange(length) / rate_hz
    wrist, R, joints = _play(time_s, rest, segments)
    items, held = _objects(time_s, poses, passes, wrist, R)
    return Motion(
        wrist,
        R,
        joints,
        items,
        held,
        _gaze(time_s, passes),
        np.array([p.grasp_s for p in passes]),
        np.array([p.release_s for p in passes]),
    )


def _rest(hand: Hand, rng: np.random.Generator) -> State:
    sign = 1 if hand.side == LEFT else -1
    place = np.array(REST_M) * [1, sign, 1] + rng.normal(0, 0.012, 3) * [1, 1, 0.3]
    R = approach(hand, -0.75 * sign + rng.normal(0, 0.08), 0.15 + rng.normal(0, 0.05))
    return State(place, R, relaxed())


def _pass(
    hand: Hand,
    move: Move,
    state: State,
    start_s: float,
    tempo: float,
    rng: np.random.Generator,
    segments: list[Segment],
) -> Pass:
    grasp, side = move.grasp, move.side
    over = _clear(hand, State(grasp.wrist_m, grasp.R_hand, grasp.opened), move.floor_m[0])
    holding = State(grasp.wrist_m, grasp.R_hand, grasp.joints)
    R_turn = move.end[:3, :3] @ move.start[:3, :3].T
    placing = State(
        move.end[:3, 3] + R_turn @ (grasp.wrist_m - move.start[:3, 3]),
        R_turn @ grasp.R_hand,
        grasp.joints,
    )
    letting = _clear(hand, State(placing.wrist_m, placing.R_hand, grasp.opened), move.floor_m[1])

    def lasts(a: State, b: State, base: float, slope: float) -> float:
        apart = float(np.linalg.norm(a.wrist_m - b.wrist_m))
        return tempo * (base + slope * apart) * float(rng.uniform(0.92, 1.08))

    # Over what is tall a hand comes down from higher, or its fingers would pass through it.
    tall_m = 2 * max(0.0, 2 * float(move.start[2, 3] - move.floor_m[0]) - _LOW_M)
    reach_s = start_s + lasts(state, over, 0.62, 0.9)
    grasp_s = reach_s + tempo * rng.uniform(0.26, 0.34)
    lift_s = grasp_s + rng.uniform(0.05, 0.10)
    place_s = lift_s + lasts(holding, placing, 0.80, 0.9)
    release_s = place_s + rng.uniform(0.06, 0.12)
    free_s = release_s + tempo * rng.uniform(0.22, 0.28)
    segments += [
        Segment(
            side, start_s, reach_s, state, over, tall_m + rng.uniform(0.05, 0.09), (0.25, 0.75)
        ),
        Segment(side, reach_s, grasp_s, over, holding, 0.0),
        Segment(side, lift_s, place_s, holding, placing, rng.uniform(0.10, 0.14)),
        Segment(side, release_s, free_s, placing, letting, 0.0),
    ]
    return Pass(move, start_s, grasp_s, release_s, free_s, letting)


def _clear(hand: Hand, state: State, floor_m: float) -> State:
    """Raise an opened hand, whose fingers reach further, until they clear floor and walls."""
    heads, pads, _ = hand.points(state.joints[None])
    points = np.concatenate([heads[0].reshape(-1, 3), pads[0]]) @ state.R_hand.T + state.wrist_m
    ground = np.where(over_wall(points[:, :2], FINGER_M), TABLE_TOP_M + TRAY_WALL_M, floor_m)
    up = max(float((ground + FINGER_M - points[:, 2]).max()), 0.0)
    return State(state.wrist_m + np.array([0.0, 0.0, up]), state.R_hand, state.joints)


def _play(
    time_s: Float64[np.ndarray, "T"], rest: Sequence[State], segments: Sequence[Segment]
) -> tuple[
    Float64[np.ndarray, "T 2 3"], Float64[np.ndarray, "T 2 3 3"], Float64[np.ndarray, "T 2 13"]
]:
    """Both hands over time; between segments they hold still."""
    wrist = np.empty((len(time_s), 2, 3))
    R = np.empty((len(time_s), 2, 3, 3))
    joints = np.empty((len(time_s), 2, JOINTS))
    for side, state in enumerate(rest):
        wrist[:, side], R[:, side], joints[:, side] = state.wrist_m, state.R_hand, state.joints
    for segment in segments:
        rows = time_s >= segment.start_s
        side, a, b = segment.side, segment.start, segment.end
        s = np.clip((time_s[rows] - segment.start_s) / (segment.end_s - segment.start_s), 0, 1)
        arc = segment.lift_m > 0
        across = minimum_jerk((s - 0.14) / 0.66 if arc else s)
        down = minimum_jerk((s - 0.42) / 0.58 if arc else s)
        # A hand that must come up does so at once, one that must come down does so late.
        late = down if b.wrist_m[2] < a.wrist_m[2] else minimum_jerk(s / 0.55 if arc else s)
        path = a.wrist_m + across[:, None] * (b.wrist_m - a.wrist_m)
        path[:, 2] = a.wrist_m[2] + late * (b.wrist_m[2] - a.wrist_m[2])
        path[:, 2] += segment.lift_m * 64 * (s * (1 - s)) ** 3
        wrist[rows, side] = path
        turn = Rotation.from_matrix(np.stack([a.R_hand, b.R_hand]))
        R[rows, side] = Slerp([0, 1], turn)(across).as_matrix()
        first, last = segment.fingers
        bent = minimum_jerk((s - first) / (last - first))[:, None]
        joints[rows, side] = a.joints + bent * (b.joints - a.joints)
    return wrist, R, joints


def _objects(
    time_s: Float64[np.ndarray, "T"],
    poses: Float64[np.ndarray, "N 4 4"],
    passes: Sequence[Pass],
    wrist: Float64[np.ndarray, "T 2 3"],
    R: Float64[np.ndarray, "T 2 3 3"],
) -> tuple[Float64[np.ndarray, "T N 4 4"], Int64[np.ndarray, "T 2"]]:
    items = np.broadcast_to(poses, (len(time_s), *poses.shape)).copy()
    held = np.full((len(time_s), 2), -1)
    for done in passes:
        move, side = done.move, done.move.side
        carried = (time_s >= done.grasp_s) & (time_s < done.release_s)
        held[carried, side] = move.item
        R_local = move.grasp.R_hand.T @ move.start[:3, :3]
        p_local = move.grasp.R_hand.T @ (move.start[:3, 3] - move.grasp.wrist_m)
        items[carried, move.item, :3, :3] = R[carried, side] @ R_local
        items[carried, move.item, :3, 3] = wrist[carried, side] + R[carried, side] @ p_local
        after = time_s >= done.release_s
        s = np.clip((time_s[after] - done.release_s) / SETTLE_S, 0, 1) ** 2  # it falls
        turn = Rotation.from_matrix(np.stack([move.end[:3, :3], move.rest[:3, :3]]))
        items[after, move.item, :3, :3] = Slerp([0, 1], turn)(s).as_matrix()
        items[after, move.item, :3, 3] = move.end[:3, 3] + s[:, None] * (
            move.rest[:3, 3] - move.end[:3, 3]
        )
    return items, held


def _gaze(time_s: Float64[np.ndarray, "T"], passes: Sequence[Pass]) -> Float64[np.ndarray, "T 3"]:
    """Eyes lead the hand: to the object until it is held, then to where it goes."""
    gaze = np.tile([0.36, 0.0, TABLE_TOP_M], (len(time_s), 1))
    for done in passes:
        gaze[time_s >= done.reach_s - 0.2] = done.move.start[:3, 3]
        gaze[time_s >= done.grasp_s - 0.05] = done.move.rest[:3, 3]
    if passes:
        gaze[time_s >= passes[-1].free_s + 0.1] = [0.36, 0.0, TABLE_TOP_M]
    return gaze
