"""Which of two equal robots goes first, as the graphs of rware 2.0.0 happen to have it (networkx 3.6 on CPython 3.11).

Where robots with equally many behind them want the same cell, the package takes the one whose cell comes first among the
nodes of their component (warehouse_move.py). Usually nodes keep the order in which they were named: robot by robot, the
cell it stands on and then the cell it wants. But a component with less than half of all nodes is listed as a Python *set*
gives it back: by slots of its hash table, filled in the order of another such set, filled breadth first from the cell of
the component's first robot. That order is arbitrary, yet a function of where the robots stand, so a twin has to follow it.

CPython's set, as far as it matters here: a table of 8 slots, at the fifth entry moved (slot by slot) into one of 32,
which holds 18. An entry takes the first free slot of a sequence that its hash decides.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

_SMALL, _LARGE, _MOST = 8, 32, 18
_UNSEEN = 1 << 30


def probe_sequence(hash_value: int, size: int) -> list[int]:
    """The slots of a table of `size` (a power of two) in the order in which CPython's set looks for a free one."""
    mask, perturb, found = size - 1, hash_value & ((1 << 64) - 1), {}
    slot = perturb & mask
    while len(found) < size:
        for near in range(slot, slot + 10 if slot + 9 <= mask else slot + 1):
            found.setdefault(near)
        perturb >>= 5
        slot = (slot * 5 + 1 + perturb) & mask
    return list(found)


class Ties:
    """The order of equals for up to 19 robots (above that, components of more than 18 cells keep the order of naming).

    Args:
        x, y: of every cell, numbered row by row; the package's nodes are the pairs (x, y).
        num_agents: at least 4; with fewer, no component is so small beside the others.
    """

    def __init__(self, x: Int[Tensor, " cell"], y: Int[Tensor, " cell"], num_agents: int):
        self.num_agents, self.groups = num_agents, num_agents // 2
        self.most = min(num_agents - 1, _MOST)  # cells of a component that is less than half of at most 2 num_agents
        hashes = [hash(node) for node in zip(x.tolist(), y.tolist(), strict=True)]
        self._probes = {
            size: torch.tensor([probe_sequence(value, size)[: self.most] for value in hashes])
            for size in ((_SMALL,) if self.most < 5 else (_SMALL, _LARGE))
        }
        self._cols = int(x.max()) + 1
        self._offset = torch.tensor([-self._cols, -1, 1, self._cols])  # above, left, right, below
        self._side = torch.zeros(2 * self._cols + 1, dtype=torch.int64).scatter(0, self._cols + self._offset, torch.arange(4))
        self._after = self._pairs(len(x)) if num_agents == 4 else None

    def order(
        self,
        cell: Int[Tensor, "agent env"],
        target: Int[Tensor, "agent env"],
        follow: Int[Tensor, "node env"],
        rival: Bool[Tensor, "agent agent env"],
    ) -> Int[Tensor, "agent env"]:
        """Of robots with equally many behind them, the lowest goes first.

        Args:
            cell, target: as in `may_move`, the robot first.
            follow: per node (0: a free cell, j + 1: robot j) the node that its arrow points to.
            rival: which robots want the same cell.
        """
        n, number = self.num_agents, torch.arange(self.num_agents, device=cell.device).unsqueeze(1)
        earlier = number.t() < number
        there = target.unsqueeze(0) == cell.unsqueeze(1)  # (who stands there, who wants, env)
        named = torch.where(there, 2 * number + 1, 2 * n).amin(1).minimum(2 * number)
        to_free = follow[1:] == 0
        nodes = n + (to_free & ~(rival & earlier.unsqueeze(2)).any(1)).sum(0)
        if self._after is not None:
            return torch.where(nodes == 7, self._order_of_four(cell, target, rival, earlier), named)

        last = torch.where(to_free, number, follow[1:] - 1)
        for _ in range((n - 1).bit_length()):
            last = last.gather(0, last)
        sink = torch.where(to_free.gather(0, last), target.gather(0, last), -1 - number)  # -1 - i: a circle closes, never equal
        together = sink.unsqueeze(0) == sink.unsqueeze(1)
        size = together.sum(1) + 1
        small = (sink >= 0) & (2 * size < nodes) & (size > 2) & (size <= self.most)
        leads = ~(together & earlier.unsqueeze(2)).any(1) & small  # the first robot of each of these components
        mark = leads.cumsum(0) - 1
        group = torch.where(small, mark.gather(0, together.byte().argmax(1)), self.groups)
        found = self._breadth_first(*(part.t().contiguous() for part in (cell, sink, follow, group, leads)))
        slot = self._slots(*found).t()
        return torch.where(small, slot[:n], named)

    def _order_of_four(
        self,
        cell: Int[Tensor, "agent env"],
        target: Int[Tensor, "agent env"],
        rival: Bool[Tensor, "agent agent env"],
        earlier: Bool[Tensor, "agent agent"],
    ) -> Int[Tensor, "agent env"]:
        """The order where two of four robots want one free cell and the others a free cell each: looked up."""
        assert self._after is not None
        side = self._side.to(cell.device).take(cell - target + self._cols)
        pair = (target * 16 + side * 4).unsqueeze(1) + side.unsqueeze(0)
        after = self._after.to(cell.device).take(pair * 2 + earlier.unsqueeze(2))
        return (rival & after).sum(1)

    def _pairs(self, num_cells: int) -> Bool[Tensor, "cell 4 4 2"]:
        """Whether the first of two robots on two sides of a free cell goes after the second, whose number is higher or lower."""
        cell, lower, higher = torch.cartesian_prod(torch.arange(num_cells), torch.arange(4), torch.arange(4)).unbind(1)
        # Breadth first: the lower robot's cell, the free one, the higher robot's. Sides outside the floor mean nothing.
        place = torch.stack((cell + self._offset[lower], cell, cell + self._offset[higher]), 1).clamp(0, num_cells - 1).unsqueeze(1)
        slot = self._slots(torch.arange(3).expand_as(place), place, torch.ones_like(place, dtype=torch.bool))
        lower_after = (slot[:, 0] > slot[:, 2]).view(num_cells, 4, 4)
        after = torch.stack((lower_after, ~lower_after.mT), 3)
        return after & ~torch.eye(4, dtype=torch.bool).unsqueeze(2)  # nobody is its own rival

    def _breadth_first(
        self,
        cell: Int[Tensor, "env agent"],
        sink: Int[Tensor, "env agent"],
        follow: Int[Tensor, "env node"],
        group: Int[Tensor, "env agent"],
        leads: Bool[Tensor, "env agent"],
    ) -> tuple[Int[Tensor, "env group most"], Int[Tensor, "env group most"], Bool[Tensor, "env group most"]]:
        """The nodes of each group in breadth-first order from its leader, their cells, and which are real.

        Nodes: robots 0 to n - 1, then the free cell of each group, then one for everything that belongs to none. Of a
        node, the cell it points to is looked at first, then the robots that point to it in their order.
        """
        n, groups, batch = self.num_agents, self.groups, len(cell)
        count = n + groups + 1
        node = torch.arange(count, device=cell.device)
        of_free = node[n:].expand(batch, -1) - n
        group = torch.cat((group, of_free), 1)
        free_cell = torch.zeros_like(of_free).scatter_(1, group[:, :n], sink.clamp_min(0))
        place = torch.cat((cell, free_cell), 1)
        to = torch.cat((torch.where(follow[:, 1:] == 0, group[:, :n] + n, follow[:, 1:] - 1), torch.full_like(of_free, -1)), 1)
        member = group.unsqueeze(1) == node[:groups].unsqueeze(1)  # (env, group, node)

        seen = torch.cat((leads, torch.zeros_like(of_free, dtype=torch.bool)), 1)
        waiting = torch.where(seen, node, _UNSEEN)  # a node's place in the queue: time found, then rank there, then node
        queue = []
        for time in range(1, self.most + 1):
            now = torch.where(member, waiting.unsqueeze(1), _UNSEEN).amin(2)
            current = torch.where(now == _UNSEEN, count - 1, now % count)
            queue.append(current)
            of_mine = torch.cat((current, torch.full_like(current[:, :1], count - 1)), 1).gather(1, group)
            ahead = to.gather(1, of_mine) == node
            found = (ahead | (to == of_mine)) & ~seen & (of_mine < count - 1)
            waiting = torch.where(node == of_mine, _UNSEEN, waiting)
            waiting = torch.where(found, (time * count + torch.where(ahead, 0, 1 + node)) * count + node, waiting)
            seen = seen | found
        order = torch.stack(queue, 2)
        return order, place.gather(1, order.flatten(1)).view_as(order), order < count - 1

    def _slots(
        self, order: Int[Tensor, "env group most"], place: Int[Tensor, "env group most"], real: Bool[Tensor, "env group most"]
    ) -> Int[Tensor, "env node"]:
        """The slot of every node in the second set, whose entries come in the order of the first."""
        late = _LARGE + torch.arange(self.most, device=order.device)
        rank = _rank(torch.where(real, self._fill(place, real), late))
        order, place = (torch.zeros_like(rank).scatter(2, rank, values) for values in (order, place))
        slot = self._fill(place, real)
        count = self.num_agents + self.groups + 1
        return torch.zeros(len(order), count, dtype=slot.dtype, device=slot.device).scatter(1, order.flatten(1), slot.flatten(1))

    def _fill(self, place: Int[Tensor, "env group most"], real: Bool[Tensor, "env group most"]) -> Int[Tensor, "env group most"]:
        """The slots of entries that come one after another; the real ones come first, so the rest does not disturb them."""
        early = self._insert(place[..., :5], _SMALL)
        if self.most < 5:
            return early
        rank = _rank(early)
        moved = torch.cat((torch.zeros_like(rank).scatter(2, rank, place[..., :5]), place[..., 5:]), 2)
        slot = self._insert(moved, _LARGE)
        late = torch.cat((slot[..., :5].gather(2, rank), slot[..., 5:]), 2)
        return torch.where(real[..., 4:5], late, torch.cat((early, late[..., 5:]), 2))

    def _insert(self, place: Int[Tensor, "env group entry"], size: int) -> Int[Tensor, "env group entry"]:
        probes = self._probes[size].to(place.device)
        probes = probes.index_select(0, place.flatten()).view(*place.shape, -1)
        used = torch.zeros_like(place[..., 0])
        slots = []
        for tried in probes.unbind(2):
            first = ((used.unsqueeze(2) >> tried) & 1).argmin(2, keepdim=True)
            slots.append(tried.gather(2, first).squeeze(2))
            used = used | (1 << slots[-1])
        return torch.stack(slots, 2)


def _rank(value: Int[Tensor, "env group entry"]) -> Int[Tensor, "env group entry"]:
    """How many of its row are less: the place in ascending order of unequal values."""
    return (value.unsqueeze(3) > value.unsqueeze(2)).sum(3)
