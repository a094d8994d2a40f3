"""What the two sides of a dispute serve each other off chain (assay.dispute.served), so that it costs half the gas.

    challenger   a move is made that could be better -> NodesRequest to the asserter -> the move is made anew with its answer
                 no answer, a refusal, or time is up -> the move that was made is sent at once; junk -> the same, and nothing is asked any more
    asserter     NodesRequest of its challenger, whose turn it is, in the same stand of the game -> ServeNodes -> Nodes

The peer that asks must be the one that the challenger's account has registered on chain (assay.messages). In a turn the asserter answers for one
way down the tree and no other, one question at a time, MOST_GIVEN times: the rest is for the chain.
"""

from __future__ import annotations

from assay.dispute.moves import Side
from assay.dispute.served import ASKS, Given, Nodes, follows
from assay.facts import DisputeFacts
from assay.ids import DisputeId, PeerId
from assay.messages import NodesRequest, Refusal
from assay.role.base import Play, RoleConfig
from assay.role.calls import Calls
from assay.role.supply import Supply
from assay.runtime import Answered, Ask, Do, Failed, Reply, Result
from assay.tasks import MakeMove, MoveMade, NodesServed, ServeNodes

MOST_GIVEN = 32
"""Times in a turn that an asserter goes to its files for its challenger: one that has lost every other answer needs no more."""


class NodesServing(Supply, Calls):
    def __init__(self, config: RoleConfig) -> None:
        super().__init__(config)
        self._kinds |= {"nodes": self._on_nodes, "give": self._on_give}

    # ---- for the disputes to say -----------------------------------------------------------------------------------------

    def _side(self, d: DisputeFacts) -> Side | None:
        raise NotImplementedError

    def _task(self, d: DisputeFacts, play: Play, side: Side) -> MakeMove | None:
        """What a move is made from; None while something of it is missing."""
        raise NotImplementedError

    def _make(self, d: DisputeFacts, play: Play, side: Side) -> None:
        raise NotImplementedError

    def _send_move(self, d: DisputeFacts, play: Play, made: MoveMade) -> None:
        raise NotImplementedError

    def _playing(self, rest: list[str]) -> tuple[DisputeFacts, Play] | None:
        raise NotImplementedError

    # ---- the challenger --------------------------------------------------------------------------------------------------

    def _asks(self, d: DisputeFacts, play: Play, side: Side) -> bool:
        """Whether this node asks for nodes now."""
        return side is Side.CHALLENGER and not play.distrusted and bool(self.state.facts.peer(d.asserter))

    def _ask_nodes(self, d: DisputeFacts, play: Play, made: MoveMade) -> bool:
        """Asks for what would make a better move; False: that is not worth the time any more."""
        if made.junk:
            play.distrusted = True
            text = f"dispute {d.dispute}: {d.asserter} serves nodes that it has not committed to; the rest is opened on chain"
            self._note("nodes", text, dispute=d.dispute, segment=d.segment, junk=True)
        if made.wanted is None or (play.asks and self._now > play.asking_until):
            return False
        if not play.asks:
            play.asking_until = self._now + ASKS * made.patience
        play.asks += 1
        play.made = made
        message = NodesRequest(dispute=d.dispute, turn=play.turn, wanted=made.wanted)
        (peer,) = self.state.facts.peer(d.asserter)
        self._do(Ask(key=f"nodes:{d.dispute}:{play.turn}:{play.tries}:{play.asks}", peer=peer, message=message, patience=made.patience))
        return True

    def _on_nodes(self, event: Result, rest: list[str]) -> None:
        found = self._playing(rest)
        if found is None or found[1].made is None or found[1].asks != int(rest[3]):
            return
        (d, play), made = found, found[1].made
        play.made = None
        if isinstance(event, Answered) and isinstance(event.message, Nodes) and made.wanted is not None:
            play.served.append(Given(wanted=made.wanted, nodes=event.message))
            return self._make(d, play, Side.CHALLENGER)
        why = event.error if isinstance(event, Failed) else "it answered something else"
        text = f"dispute {d.dispute}: {d.asserter} does not serve its nodes: {why}; they are opened on chain"
        self._note("nodes", text, dispute=d.dispute, segment=d.segment, reason=why)
        self._send_move(d, play, made)

    # ---- the asserter ----------------------------------------------------------------------------------------------------

    def _nodes_asked(self, ask: int, peer: PeerId, request: NodesRequest) -> None:
        d, play = self.state.facts.disputes.get(request.dispute), self.state.plays.get(request.dispute)
        refusal = self._declined(peer, request)
        if refusal is not None or d is None or play is None:
            return self._do(Reply(ask=ask, message=refusal or Refusal(reason=f"dispute {request.dispute} is not known here")))
        if play.giving is None:
            task = self._task(d, play, Side.ASSERTER)
            if task is None:
                return self._do(Reply(ask=ask, message=Refusal(reason="what it is made from is being fetched", retry_after=1)))
            play.gives += 1
            play.giving = request.wanted
            self._do(Do(key=f"give:{d.dispute}:{play.turn}:{play.gives}", task=ServeNodes(place=task, wanted=request.wanted)))
        play.waiting.append(ask)

    def _declined(self, peer: PeerId, request: NodesRequest) -> Refusal | None:
        d, play = self.state.facts.disputes.get(request.dispute), self.state.plays.get(request.dispute)
        if d is None or not d.undecided or not d.asserter or self._side(d) is not Side.ASSERTER:
            return Refusal(reason=f"this node defends nothing in dispute {request.dispute}")
        if self.state.facts.account(peer, (d.challenger,)) is None:
            return Refusal(reason="this peer is not that of the challenger")
        if request.turn > d.turns or play is None:  # the move before may be final at the challenger's chain node and not yet at this one's
            return Refusal(reason=f"dispute {request.dispute} is not so far", retry_after=1)
        if request.turn < d.turns or d.asserting:
            return Refusal(reason="it is not the challenger's turn")
        if play.giving not in (None, request.wanted):
            return Refusal(reason="one question at a time", retry_after=1)
        if play.gives >= MOST_GIVEN or not follows(play.given, request.wanted):
            return Refusal(reason="in a turn, one way down the tree is served and no other")
        return None

    def _on_give(self, event: Result, rest: list[str]) -> None:
        play = self.state.plays.get(DisputeId(int(rest[0])))
        if play is None or (play.turn, play.gives) != (int(rest[1]), int(rest[2])) or play.giving is None:
            return
        waiting, wanted = play.waiting, play.giving
        play.waiting, play.giving = [], None
        reply: Nodes | Refusal
        if isinstance(event, Failed):
            reply = Refusal(reason="it could not be made", retry_after=1)
            self._note("error", f"dispute {rest[0]}: nodes could not be served: {event.error}", dispute=int(rest[0]))
        else:
            nodes = self._outcome(event, NodesServed).nodes
            reply = nodes or Refusal(reason="that is not below the node that was shown")
            if nodes is not None and wanted not in play.given:
                play.given.append(wanted)
                self._note("nodes", f"dispute {rest[0]}: its challenger is served nodes", dispute=int(rest[0]), height=wanted.height)
        for ask in waiting:
            self._do(Reply(ask=ask, message=reply))

    def _asks_forgotten(self) -> None:
        """Who asked before this node came up again hears nothing any more."""
        for play in self.state.plays.values():
            play.waiting = []
