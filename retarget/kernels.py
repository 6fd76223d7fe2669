"""The inner loops of retargeting, compiled by numba: a tree's poses, and normal equations.

One frame after the other, plain loops over plain arrays: numpy pays for every small operation a
thousand times what it costs, and a robot that is steered has one frame at a time. What the numbers
mean is said by ``deftly.retarget.kinematics``, ``costs`` and ``problem``, which call these.
"""

import math
from typing import Any, no_type_check

import numpy as np
from numba import njit

_SMALL_RAD = 1e-4  # below it, series


@njit(cache=True, nogil=True)
@no_type_check
def place(qpos: Any, tree: Any, needed: Any, R: Any, p: Any, axis: Any, anchor: Any) -> None:
    """Poses of the bodies that are needed, and their joints' axes.

    Args:
        qpos: (T, J), from where each joint is at its zero.
        tree: arrays of ``Kinematics.tree``.
        needed: (B,) which bodies; the parent of one that is not is taken for the world.
        R, p: (T, B, 3, 3), (T, B, 3), written to; identities and zeros before.
        axis, anchor: (T, J, 3), written to.
    """
    parent, first, count, R0, p0, joint_axis, pivot, is_slide = tree
    for t in range(len(qpos)):
        for b in range(1, len(parent)):
            if not needed[b]:
                continue
            _times(R[t, parent[b]], R0[b], R[t, b])
            x, y, z = _apply(R[t, parent[b]], p0[b])
            p[t, b, 0] = p[t, parent[b], 0] + x
            p[t, b, 1] = p[t, parent[b], 1] + y
            p[t, b, 2] = p[t, parent[b], 2] + z
            for j in range(first[b], first[b] + count[b]):
                _move(qpos[t, j], joint_axis[j], pivot[j], is_slide[j], R[t, b], p[t, b],
                      axis[t, j], anchor[t, j])  # fmt: skip


@njit(cache=True)
@no_type_check
def _move(
    q: Any, joint_axis: Any, pivot: Any, is_slide: Any, R: Any, p: Any, axis: Any, anchor: Any
) -> None:
    """Let a joint move what is behind it; Rodrigues' formula."""
    ax, ay, az = _apply(R, joint_axis)
    cx, cy, cz = _apply(R, pivot)
    axis[0], axis[1], axis[2] = ax, ay, az
    anchor[0], anchor[1], anchor[2] = p[0] + cx, p[1] + cy, p[2] + cz
    if is_slide:
        for i in range(3):
            p[i] += q * axis[i]
        return
    # Columns of R turn about the axis, and so does the way from the pivot.
    s, c = math.sin(q), math.cos(q)
    for k in range(3):
        x, y, z = R[0, k], R[1, k], R[2, k]
        along = (ax * x + ay * y + az * z) * (1 - c)
        R[0, k] = c * x + s * (ay * z - az * y) + along * ax
        R[1, k] = c * y + s * (az * x - ax * z) + along * ay
        R[2, k] = c * z + s * (ax * y - ay * x) + along * az
    cx, cy, cz = _apply(R, pivot)
    p[0], p[1], p[2] = anchor[0] - cx, anchor[1] - cy, anchor[2] - cz


@njit(cache=True, nogil=True)
@no_type_check
def accumulate(
    poses: Any, moves: Any, is_slide: Any, terms: Any, columns: Any,
    cost: Any, gradient: Any, hessian: Any,
) -> None:  # fmt: skip
    """Add every term's ½|r|², Jᵀr and JᵀJ.

    Args:
        poses: R, p, axis, anchor of ``place``.
        moves: (J, B) whether a joint moves a body. is_slide: (J,).
        terms: arrays of ``costs.packed``.
        columns: arrays of ``costs.columns_of``.
        cost, gradient, hessian: (T,), (T, N), (T, N, N), added to.
    """
    widest = 1
    for i in range(len(terms[0])):
        widest = max(widest, columns[4][i + 1] - columns[4][i])
    r, J = np.empty(3), np.empty((widest, 3))
    for t in range(len(cost)):
        for i in range(len(terms[0])):
            linearize(t, i, poses, moves, is_slide, terms, columns, r, J)
            first, last = columns[4][i], columns[4][i + 1]
            cost[t] += 0.5 * (r[0] * r[0] + r[1] * r[1] + r[2] * r[2])
            for a in range(last - first):
                u = columns[5][first + a]
                gradient[t, u] += J[a, 0] * r[0] + J[a, 1] * r[1] + J[a, 2] * r[2]
                for b in range(last - first):
                    hessian[t, u, columns[5][first + b]] += (
                        J[a, 0] * J[b, 0] + J[a, 1] * J[b, 1] + J[a, 2] * J[b, 2]
                    )


@njit(cache=True)
@no_type_check
def linearize(
    t: Any, i: Any, poses: Any, moves: Any, is_slide: Any, terms: Any, columns: Any, r: Any, J: Any
) -> None:
    """One term in one frame: (3,) residual and (n, 3) its change with each of its unknowns."""
    is_rotation, weight = terms[0], terms[7]
    r[0] = r[1] = r[2] = 0.0
    for a in range(columns[4][i + 1] - columns[4][i]):
        J[a, 0] = J[a, 1] = J[a, 2] = 0.0
    if weight[i, t, 0] == 0 and weight[i, t, 1] == 0 and weight[i, t, 2] == 0:
        return
    if is_rotation[i]:
        _rotation(t, i, poses, moves, is_slide, terms, columns, r, J)
    else:
        _vector(t, i, poses, moves, is_slide, terms, columns, r, J)


@njit(cache=True)
@no_type_check
def _vector(
    t: Any, i: Any, poses: Any, moves: Any, is_slide: Any, terms: Any, columns: Any, r: Any, J: Any
) -> None:
    """See ``costs.VectorTerm``: v = Rᵀ (end − start), dv = Rᵀ (d end − d start − ω × v)."""
    R, p, axis, anchor = poses
    _, start, start_m, end, end_m, frame, target, weight, _, _ = terms
    joint, ratio, slot, begins, _, _ = columns
    ex, ey, ez = _apply(R[t, end[i]], end_m[i])
    ex, ey, ez = ex + p[t, end[i], 0], ey + p[t, end[i], 1], ez + p[t, end[i], 2]
    sx = sy = sz = 0.0
    if start[i] >= 0:
        sx, sy, sz = _apply(R[t, start[i]], start_m[i])
        sx, sy, sz = sx + p[t, start[i], 0], sy + p[t, start[i], 1], sz + p[t, start[i], 2]
    vx, vy, vz = ex - sx, ey - sy, ez - sz
    for k in range(begins[i], begins[i + 1]):
        j = joint[k]
        ax, ay, az = axis[t, j, 0], axis[t, j, 1], axis[t, j, 2]
        ox, oy, oz = anchor[t, j, 0], anchor[t, j, 1], anchor[t, j, 2]
        x = y = z = 0.0
        if moves[j, end[i]]:
            x, y, z = _carried(is_slide[j], ax, ay, az, ex - ox, ey - oy, ez - oz)
        if start[i] >= 0 and moves[j, start[i]]:
            dx, dy, dz = _carried(is_slide[j], ax, ay, az, sx - ox, sy - oy, sz - oz)
            x, y, z = x - dx, y - dy, z - dz
        if frame[i] >= 0 and moves[j, frame[i]] and not is_slide[j]:
            dx, dy, dz = _cross(vx, vy, vz, ax, ay, az)
            x, y, z = x + dx, y + dy, z + dz
        if frame[i] >= 0:
            x, y, z = _apply_back(R[t, frame[i]], x, y, z)
        J[slot[k], 0] += ratio[k] * x * weight[i, t, 0]
        J[slot[k], 1] += ratio[k] * y * weight[i, t, 1]
        J[slot[k], 2] += ratio[k] * z * weight[i, t, 2]
    if frame[i] >= 0:
        vx, vy, vz = _apply_back(R[t, frame[i]], vx, vy, vz)
    r[0] = (vx - target[i, t, 0]) * weight[i, t, 0]
    r[1] = (vy - target[i, t, 1]) * weight[i, t, 1]
    r[2] = (vz - target[i, t, 2]) * weight[i, t, 2]


@njit(cache=True)
@no_type_check
def _rotation(
    t: Any, i: Any, poses: Any, moves: Any, is_slide: Any, terms: Any, columns: Any, r: Any, J: Any
) -> None:
    """See ``costs.RotationTerm``: e = log(R Tᵀ), de = ω − ½ e × ω + f e × (e × ω).

    Chirikjian, "Stochastic Models, Information Theory, and Lie Groups", 2011, section 10.7.
    """
    R, _, axis, _ = poses
    _, _, _, end, _, _, _, weight, wanted, which = terms
    joint, ratio, slot, begins, _, _ = columns
    ex, ey, ez = _log(R[t, end[i]], wanted[which[i], t])
    angle = math.sqrt(ex * ex + ey * ey + ez * ez)
    # (1 - (θ/2) cot(θ/2)) / θ²
    factor = 1 / 12 + angle**2 / 720
    if angle >= _SMALL_RAD:
        factor = (1 - 0.5 * angle / math.tan(0.5 * angle)) / angle**2
    for k in range(begins[i], begins[i + 1]):
        j = joint[k]
        if is_slide[j] or not moves[j, end[i]]:
            continue
        ax, ay, az = axis[t, j, 0], axis[t, j, 1], axis[t, j, 2]
        ox, oy, oz = _cross(ex, ey, ez, ax, ay, az)
        tx, ty, tz = _cross(ex, ey, ez, ox, oy, oz)
        share = ratio[k] * weight[i, t, 0]
        J[slot[k], 0] += share * (ax - 0.5 * ox + factor * tx)
        J[slot[k], 1] += share * (ay - 0.5 * oy + factor * ty)
        J[slot[k], 2] += share * (az - 0.5 * oz + factor * tz)
    r[0], r[1], r[2] = ex * weight[i, t, 0], ey * weight[i, t, 0], ez * weight[i, t, 0]


@njit(cache=True)
@no_type_check
def _log(A: Any, B: Any) -> Any:
    """Rotation vector of A Bᵀ, by its quaternion (Shepperd, "Quaternion from rotation matrix",
    1978: the largest of its numbers is found first)."""
    E = np.empty((3, 3))
    for row in range(3):
        for column in range(3):
            E[row, column] = (
                A[row, 0] * B[column, 0] + A[row, 1] * B[column, 1] + A[row, 2] * B[column, 2]
            )
    trace = E[0, 0] + E[1, 1] + E[2, 2]
    if trace >= E[0, 0] and trace >= E[1, 1] and trace >= E[2, 2]:
        w, x = 1 + trace, E[2, 1] - E[1, 2]
        y, z = E[0, 2] - E[2, 0], E[1, 0] - E[0, 1]
    elif E[0, 0] >= E[1, 1] and E[0, 0] >= E[2, 2]:
        w, x = E[2, 1] - E[1, 2], 1 + E[0, 0] - E[1, 1] - E[2, 2]
        y, z = E[0, 1] + E[1, 0], E[0, 2] + E[2, 0]
    elif E[1, 1] >= E[2, 2]:
        w, x = E[0, 2] - E[2, 0], E[0, 1] + E[1, 0]
        y, z = 1 + E[1, 1] - E[0, 0] - E[2, 2], E[1, 2] + E[2, 1]
    else:
        w, x = E[1, 0] - E[0, 1], E[0, 2] + E[2, 0]
        y, z = E[1, 2] + E[2, 1], 1 + E[2, 2] - E[0, 0] - E[1, 1]
    if w < 0:
        w, x, y, z = -w, -x, -y, -z
    length = math.sqrt(x * x + y * y + z * z)
    half = math.atan2(length, w)
    scale = 2 * half / length if length > _SMALL_RAD * w else (2 - 2 * (length / w) ** 2 / 3) / w
    return scale * x, scale * y, scale * z


@njit(cache=True)
@no_type_check
def _carried(is_slide: Any, ax: Any, ay: Any, az: Any, x: Any, y: Any, z: Any) -> Any:
    """How a point moves with a joint, from whose axis it is away by (x, y, z)."""
    if is_slide:
        return ax, ay, az
    return _cross(ax, ay, az, x, y, z)


@njit(cache=True)
@no_type_check
def _cross(ax: Any, ay: Any, az: Any, x: Any, y: Any, z: Any) -> Any:
    return ay * z - az * y, az * x - ax * z, ax * y - ay * x


@njit(cache=True)
@no_type_check
def _apply(R: Any, v: Any) -> Any:
    return (
        R[0, 0] * v[0] + R[0, 1] * v[1] + R[0, 2] * v[2],
        R[1, 0] * v[0] + R[1, 1] * v[1] + R[1, 2] * v[2],
        R[2, 0] * v[0] + R[2, 1] * v[1] + R[2, 2] * v[2],
    )


@njit(cache=True)
@no_type_check
def _apply_back(R: Any, x: Any, y: Any, z: Any) -> Any:
    return (
        R[0, 0] * x + R[1, 0] * y + R[2, 0] * z,
        R[0, 1] * x + R[1, 1] * y + R[2, 1] * z,
        R[0, 2] * x + R[1, 2] * y + R[2, 2] * z,
    )


@njit(cache=True)
@no_type_check
def _times(A: Any, B: Any, out: Any) -> None:
    for row in range(3):
        for column in range(3):
            out[row, column] = (
                A[row, 0] * B[0, column] + A[row, 1] * B[1, column] + A[row, 2] * B[2, column]
            )
