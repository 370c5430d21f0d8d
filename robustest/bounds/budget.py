"""The most that a linear form can gain by moves of bounded length in L1 or L2, each dimension within its own room.

Both are Lagrange duals: at any price per unit of length (L1) or of squared length (L2) the gain is at most the budget
times the price plus what each dimension can still gain at that price. So a price that is only nearly the best gives a
bound that is only nearly the best, and never one that is too small.

Sources: L1 is the fractional knapsack (Dantzig 1957): the best price is the rate of the item at which the budget runs out.
In L2 the best price is the one at which the moves are as long as the budget; the inverse of their length is nearly linear
in the price, which a secant uses (Moré & Sorensen 1983). Knows nothing of regions or networks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_FEW = 24
"""Items that are ordered first when a budget is shared out: seldom do more of them get any."""
_SECANT_STEPS = 7
_ACTIVE_STEPS = 8
_NEAR = 1e-6
"""Share of the budget by which the length of moves in L2 may miss it; the bound is looser by about its square."""
_LEAST = 1e-300


def highest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest entries of the last axis in falling order, and their places; differentiable in the values.

    Ordered by numpy, which is several times as fast as torch's top-k on a CPU.
    """
    flat = values.detach().numpy()
    size = flat.shape[-1]
    if count < size:
        place = torch.from_numpy(np.argpartition(flat, size - count, -1)[..., size - count :])
        place = place.gather(-1, values.detach().gather(-1, place).argsort(-1, descending=True))
    else:
        place = torch.from_numpy(np.argsort(flat, -1)[..., ::-1].copy())
    return values.gather(-1, place), place


def most_in_l1(form: Tensor, down: Tensor, up: Tensor, eps: Tensor, weight: Tensor | None = None) -> Tensor:
    """(B, R) most of `form . d` for `||weight d||_1 <= eps` and `down <= d <= up`: a dual value, but for rounding.

    Args:
        form: (B, R, n). down, up: (B, n), down <= 0 <= up. eps: (B,). weight: (B, n) >= 0, ones where None.
    """
    with torch.no_grad():
        # What has no room takes none of the budget.
        rate = torch.maximum(form * (up > 0)[:, None], -form * (down < 0)[:, None])
        cost = 1.0 if weight is None else weight[:, None]

        def room_at(place: Tensor) -> Tensor:
            above, below = ((end[:, None] * cost).expand_as(form).gather(-1, place) for end in (up, down))
            return torch.where(form.gather(-1, place) > 0, above, -below)

        price = _price_in_l1(rate if weight is None else rate / weight[:, None].clamp_min(_LEAST), room_at, eps)
        toll = price * cost
    gained = _apply((form - toll).clamp_min(0), up) - _apply((-form - toll).clamp_min(0), down)
    return price[..., 0] * eps[:, None] + gained


def gained_in_l1(rate: Tensor, room: Tensor, eps: Tensor, other: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """(B, R) most that can be gained at these rates per unit of L1, each item within its room: a dual value.

    An item that can move either way, at `other` rate and room the other way, counts with the better of its two ways.

    Args:
        rate, room: (B, R, n), >= 0; the room may be (B, 1, n). eps: (B,).
        other: the same of the other ways.
    """
    with torch.no_grad():
        every = room.expand_as(rate)
        price = _price_in_l1(torch.where(every > 0, rate, 0.0), lambda place: every.gather(-1, place), eps)
    gained = room * (rate - price).clamp_min(0)
    if other is not None:
        gained = torch.maximum(gained, other[1] * (other[0] - price).clamp_min(0))
    return price[..., 0] * eps[:, None] + gained.sum(-1)


def most_in_l2(form: Tensor, down: Tensor, up: Tensor, eps: Tensor) -> Tensor:
    """(B, R) most of `form . d` for `||d||_2 <= eps` and `down <= d <= up`: the best of three dual values, but for rounding.

    Args:
        form: (B, R, n). down, up: (B, n), down <= 0 <= up. eps: (B,).
    """
    low, high = down[:, None], up[:, None]
    length = form.norm(dim=-1, keepdim=True)
    with torch.no_grad():

        def moves(price: Tensor) -> Tensor:
            return torch.minimum(torch.maximum(form * (0.5 / price), low), high)

        price, settled = _price_in_l2(moves, length, eps)
        if not bool(settled.all()):
            place = (~settled[..., 0]).nonzero(as_tuple=True)
            chosen, owner = form[place], place[0]
            room = torch.where(chosen > 0, up[owner], -down[owner])
            price[place] = _active_set(chosen.abs(), room, eps[owner])
        move = moves(price)
    dual = price[..., 0] * ((eps**2)[:, None] - move.square().sum(-1)) + (form * move).sum(-1)
    box = _apply(form.abs(), (up - down) / 2) + _apply(form, (up + down) / 2)
    return torch.minimum(torch.minimum(dual, length[..., 0] * eps[:, None]), box)


def gained_in_l2(size: Tensor, room: Tensor, eps: Tensor, other: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """(B, R) most that `size . d` can be for `||d||_2 <= eps`, `0 <= d <= room`: the best of three dual values.

    An item that can move either way, with `other` size and room the other way, counts with the better of its ways:
    for any price the gain is at most `price * eps^2` plus the sum of each item's most of `size d - price d^2`.

    Args:
        size, room: (B, R, n), >= 0; the room may be (B, 1, n). eps: (B,).
        other: the same of the other ways.
    """
    with torch.no_grad():
        price = price_in_l2(size, room, eps)
    gained, most = _gained(size, room, price), size * room
    if other is not None:
        gained = torch.maximum(gained, _gained(*other, price))
        most = torch.maximum(most, other[0] * other[1])
        size = torch.maximum(size, torch.where(other[1] > 0, other[0], 0.0))
    dual = gained.sum(-1) + price[..., 0] * (eps**2)[:, None]
    dual = torch.minimum(dual, size.norm(dim=-1) * eps[:, None])
    return torch.minimum(dual, most.sum(-1))


def price_in_l2(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """(B, R, 1) price per unit of squared length; any positive value is sound. Arguments as of `gained_in_l2`."""
    price, settled = _price_in_l2(
        lambda price: torch.minimum(size * (0.5 / price), room), size.norm(dim=-1, keepdim=True), eps
    )
    if not bool(settled.all()):
        place = (~settled[..., 0]).nonzero(as_tuple=True)
        price[place] = _active_set(size[place], room.expand_as(size)[place], eps[place[0]])
    return price


def _price_in_l1(rate: Tensor, room_at: Callable[[Tensor], Tensor], eps: Tensor) -> Tensor:
    """(B, R, 1) the rate at which the best items' room is as much as the budget; 0 where all items fit in it."""
    size = rate.shape[-1]
    for count in (min(_FEW, size), size):
        ordered, place = highest(rate, count)
        last = (room_at(place).cumsum(-1) < eps[:, None, None]).sum(-1, keepdim=True)
        if not bool((last == count).any()):
            break
    return torch.where(last < count, ordered.gather(-1, last.clamp_max(count - 1)), 0.0)


def _price_in_l2(moves: Callable[[Tensor], Tensor], length: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """(B, R, 1) prices, and whether the moves at each are as long as the budget or the form is 0.

    Args:
        moves: (B, R, n) at a price. length: (B, R, 1) of the form. eps: (B,).
    """
    wanted = eps[:, None, None].clamp_min(_LEAST)
    # Moves without limits are too long at any lower price.
    first = (length / (2 * wanted)).clamp_min(_LEAST)
    before = moves(first).norm(dim=-1, keepdim=True)
    nothing = length == 0
    price, now = first, before
    for step in range(_SECANT_STEPS):
        settled = ((now - wanted).abs() <= _NEAR * wanted) | nothing
        if bool(settled.all()):
            break
        if step == 0:
            new = first * (before / wanted)
        else:
            change = (1 / wanted - 1 / now) * (price - first) / (1 / now - 1 / before)
            new = torch.where((price + change > 0) & change.isfinite(), price + change, price)
        first, before = price, now
        price = torch.where(settled, price, new.clamp_min(_LEAST))
        now = moves(price).norm(dim=-1, keepdim=True)
    return price, ((now - wanted).abs() <= _NEAR * wanted) | nothing


def _active_set(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """(M, 1) prices of M forms, from above, by turns of which items their room clips and what the others' price is then.

    Args:
        size, room: (M, n). eps: (M,).
    """
    square = (eps**2)[:, None]
    price: Tensor = (size.norm(dim=-1, keepdim=True) / (2 * eps[:, None]).clamp_min(_LEAST)).clamp_min(_LEAST)
    long, wide = size.square(), room.square()
    # An item is clipped by its room below this price.
    clipped = size / (2 * room.abs())
    for _ in range(_ACTIVE_STEPS):
        free = (clipped < price).to(torch.float64)
        left = square - ((1 - free) * wide).sum(-1, keepdim=True)
        new = ((free * long).sum(-1, keepdim=True) / (4 * left).clamp_min(_LEAST)).sqrt()
        better = (left > 0) & (new < price * (1 - 1e-3)) & (new > 0)
        if not bool(better.any()):
            break
        price = torch.where(better, new, price)
    return price


def _gained(size: Tensor, room: Tensor, price: Tensor) -> Tensor:
    """Most of `size d - price d^2` for `0 <= d <= room`, entry by entry."""
    move = torch.minimum(size * (0.5 / price), room)
    return move * (size - price * move)


def _apply(form: Tensor, point: Tensor) -> Tensor:
    """(B, R) `form @ point` for (B, R, n) and (B, n)."""
    return (form @ point[:, :, None])[..., 0]
