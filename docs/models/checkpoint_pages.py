#!/usr/bin/env python3
"""Checkpoints, page by page: a model of their rules that tries to break them.

    checkpoint_pages.py [SEEDS [FIRST]]     random schedules (default 2000 from 0)
    checkpoint_pages.py --small [WORLDS [FIRST]]  few blocks, one replica, every order of its steps
    checkpoint_pages.py --mutants [SEEDS]   break one rule at a time: each must be caught
    checkpoint_pages.py --mutants-late [SEEDS]    the same, and only what is wrong at the end counts
    checkpoint_pages.py --trace SEED [MUTANT]     tell one schedule step by step
    checkpoint_pages.py --small-trace WORLD [MUTANT]

Each commit is a step of its own, and anything may happen between two: Replica has
one method for each. Its first fields are rows of the store and survive a crash;
`heard`, `arrived`, `folds` and `purging` are memory and do not.

inspect() is checked after every step, verdict() once all can talk again.
"""
import copy
import multiprocessing
import random
import sys
import time
from collections import Counter
from typing import NamedTuple

KEYS, DAGS = 'abc', ('', 'd')
UNKNOWN, PENDING, COMPLETE, STRANDED, REFUSED = 'unknown', 'pending', 'complete', 'stranded', 'refused'
MERGED = (PENDING, COMPLETE, STRANDED)

# Each breaks one rule. Where the code asks for a mutant, the
# line beside it is the rule.
MUTANTS = {
    'cover-complete-first': 'phase 0 already makes C complete',
    'no-phase-0': 'blocks of C are fetched and merged while c is taken',
    'merged-after-page': 'blocks of C that had arrived before phase 0 are merged after it',
    'no-removals': 'phase 2 is skipped',
    'removals-only-if-merged': 'phase 2 is skipped if nothing of C was merged, though a take was left before',
    'removal-leaves-no-row': 'phase 2 removes without what a tombstone leaves',
    'tombstone-only-row': 'a tombstone for a block that is being taken only leaves its row',
    'tombstone-only-removes': 'a tombstone for a block that is being taken only removes',
    'both-only-while-taken': 'after a take was left, a tombstone for a block that is not merged only leaves its row',
    'here-means-merged': 'a version that is here counts as merged: its tombstone leaves no row',
    'page-ignores-rows': 'pages bring versions whose tombstone has been seen',
    'page-ignores-merged': 'pages bring versions whose block has been merged',
    'page-ignores-covers': 'pages look at mark rows alone, not at covers that are complete',
    'open-tombs-dropped': 'the snapshot has no T',
    'open-tombs-ignored': 'the reader passes over T',
    'winners-only': 'the snapshot has no losers',
    'from-the-store': 'V is read from the store, not folded',
    'links-not-folded': 'c links to the heads of when it is published',
    'checkpoint-skips-anywhere': 'c has a skip link to a complete block beside its cover',
    'one-base': 'the fold uses one older snapshot alone, and leaves out what it cannot get',
    'join-keeps-all': 'the fold keeps a version that another snapshot says is dead',
    'fold-touches-changes-only': 'open tombstones of newly covered blocks are only looked at where their key changes',
    'fold-unmerged': 'the fold takes in blocks that are not merged here (an upgraded store with gaps)',
    'fold-refused': 'the fold takes in blocks that are refused',
    'fold-other-dags': 'the cover has what is reachable through other DAGs',
    'void-is-base': 'a snapshot that failed the check is built on',
    'membership-not-a-mark': 'only rows count as marks',
    'pending-row-first': 'a pending row overrules membership in a complete cover',
    'cover-heads-stay': 'heads below c stay heads when it is taken',
    'rows-of-cover-stay': 'tombstone rows of C stay after c is taken',
    'nobody-told': 'only those that wait for c itself are told, not those that wait for C',
    'two-takes': 'two takes in a DAG at once',
    'done-before-removals': 'c is complete before phase 2',
    'drop-before-held': 'blocks go before the snapshot is here',
    'drop-loses-values': 'blocks go with the values of live versions',
    'page-loses-values': 'versions of pages count on their blocks for their values',
    'done-again': 'phase 3 makes c a head although it has become complete otherwise meanwhile',
    'gaps-not-taken': 'an upgraded store does not take a checkpoint whose mark is complete, though there are gaps below it',
    'two-newest-pages': 'pages of all but the two newest checkpoints go',
    'cover-pages-not-held': 'who checks a snapshot does not get the cover pages that it names, and drops',
    'checked-page-by-page': 'pages are checked when their turn comes, and a malformed snapshot is found out half-way',
    'unchecked-cover': 'the cover of a checkpoint counts as marks as soon as it is complete, before it was checked',
    'unstick-never': 'a take that cannot get its pages is not left',
    'queue-forgotten': 'queue rows of C go in phase 0, and are not there when the take is left',
    'writes-below-take': 'local writes do not rise above a checkpoint that is being taken',
    'left-forgotten': 'the row of a take that was left goes at once, and with it the cover by which a purge knows what came of it',
    'purge-covers-stay': 'covers count as marks after their DAG was purged',
    'purge-forgets-others': 'a purge leaves no tombstone rows for what other DAGs removed',
    'purge-asks-blocks-alone': 'a purge looks for tombstones of other DAGs in their blocks alone, not in T of their snapshots',
    'purge-asks-of-live-alone': 'a purge leaves rows only for versions that the DAG itself shows',
    'purge-only-named': 'a purge leaves rows only where a tombstone is found, though a DAG that was purged before may have had it',
    'purge-explains-late': 'a purge finds out what others have removed after it has removed versions itself',
    'purge-hides-late': 'tombstones for blocks that are about to be purged leave no rows',
    'purge-leaves-versions': 'versions of blocks that a purged cover has, and that never came, stay',
    'purge-beside-take': 'a take goes on in a DAG that is purged',
    'purge-before-told': 'a purge does not tell first what it has taken',
}
mutant, late = '', False


class Wrong(Exception):
    pass


def must(ok, *text):
    if not ok:
        raise Wrong(' '.join(str(t) for t in text))


def at_once(ok, *text):
    """What must hold on the way. Without it, only the end counts."""
    must(ok or late, *text)


class Version(NamedTuple):
    key: str
    block: int
    priority: int
    value: str


class Snapshot(NamedTuple):
    versions: frozenset  # of Version: live
    tombs: frozenset     # of (key, block): tombstones whose block is not covered
    cover: frozenset     # of blocks

    def pages(self):
        """The versions by (key, block), then the tombstones by (block, key), cut where
        the entries themselves say."""
        entries = [('version', v) for v in sorted(self.versions)]
        entries += [('tombstone', t) for t in sorted(self.tombs, key=lambda t: (t[1], t[0]))]
        pages, page = [], []
        for entry in entries:
            page.append(entry)
            if (entry[1][1] * 5 + ord(entry[1][0])) % 3 == 0:
                pages, page = pages + [tuple(page)], []
        return pages + [tuple(page)] if page or not pages else pages


class Block:
    """Never changes. snap is what field 100 of the delta names."""

    def __init__(b, world, dag, links, height, elems, tombs, snap=None, bad=False, lie=''):
        b.id, b.dag, b.links, b.height = len(world.blocks), dag, frozenset(links), height
        b.elems, b.tombs, b.snap, b.bad, b.lie = dict(elems), frozenset(tombs), snap, bad, lie
        b.below = b.links.union(*(world.blocks[l].below for l in links))
        b.own = frozenset(l for l in links if world.blocks[l].dag == dag)  # below it by links within its DAG
        b.own = b.own.union(*(world.blocks[l].own for l in b.own))
        b.versions = [Version(k, b.id, height, v) for k, v in elems.items()]
        b.adds = {(k, b.id) for k in elems}
        b.pages = snap.pages() + [('cover', b.id)] if snap else []

    def __str__(b):
        what = f'cover {set(b.snap.cover)} V {sorted(v[:2] for v in b.snap.versions)} T {sorted(b.snap.tombs)}' if b.snap else \
            ' '.join([f'{k}={v}' for k, v in b.elems.items()] + [f'-{k}@{x}' for k, x in sorted(b.tombs)])
        return f'#{b.id}{"@" + b.dag if b.dag else ""} h{b.height} on {sorted(b.links)}: {what}{" LIE " + b.lie if b.lie else ""}{" BAD" if b.bad else ""}'


class World:
    """All blocks ever, and all replicas."""

    def __init__(w, rnd):
        w.rnd, w.blocks, w.reps, w.dead, w.log = rnd, [], [], set(), []
        w.dropped = w.odd = False  # history was dropped; priorities lie
        w.count = 0                # of replicas, also those that have gone
        w.tally = Counter()        # what happened, to see that the seeds get where it hurts

    def new(w, *args, **kw):
        b = Block(w, *args, **kw)
        w.blocks.append(b)
        w.dead |= b.tombs
        return b

    def effect(w, ids):
        """What merging these blocks comes to, in whatever order: live versions, open tombstones."""
        tombs = set().union(*(w.blocks[b].tombs for b in ids))
        return set().union(*(w.blocks[b].adds for b in ids)) - tombs, {t for t in tombs if t[1] not in ids}

    def snapshot(w, ids):
        """By brute force, what fold should find."""
        live, tombs = w.effect(ids)
        return Snapshot(frozenset(v for b in ids for v in w.blocks[b].versions if v[:2] in live), frozenset(tombs), frozenset(ids))

    def find(w, asker, has):
        return asker.online and any(r.online and r is not asker and has(r) for r in w.reps)


def view(versions):
    best = {}
    for v in versions:
        if v.key not in best or (v.priority, v.value) > best[v.key]:
            best[v.key] = (v.priority, v.value)
    return {k: pv[1] for k, pv in best.items()}


class Take:
    """The row of a checkpoint that is being taken."""

    def __init__(t, c, removals):
        t.c, t.page, t.removals, t.swept = c, 0, removals, ''


class Purge:
    """A PurgeDAG that is going on: in memory alone. Its blocks count as not merged meanwhile."""

    def __init__(p, gone):
        p.gone, p.phase, p.swept, p.rows = frozenset(gone), 'explain', '', frozenset()


class Live:
    """A live version in the store. kept: it does not need its block for its value."""
    __slots__ = 'version', 'kept'

    def __init__(self, version, kept):
        self.version, self.kept = version, kept


class Replica:
    def __init__(r, world, old='', takes=True):
        r.world, r.n, r.old, r.takes, r.online = world, world.count, old, takes and not old, True
        world.count += 1
        world.reps.append(r)
        # The store.
        r.live = {}       # (key, block): Live                      rows /s/r and /s/l
        r.early = set()   # (key, block): tombstones before their block     /s/t
        r.marks = {}      # block: PENDING, COMPLETE, STRANDED or REFUSED   /b
        r.missing = {}    # pending block: how many links are not complete  in /b
        r.nohead = set()  # pending blocks that must not become heads       in /b
        r.waits = {}      # child: parents that wait for it                 /p
        r.queue = set()   # missing blocks                                  /q
        r.heads = set()   #                                                 /h, /a
        r.covers = {}     # checkpoint: its cover, all of which is complete
        r.taking = {}     # DAG: Take
        r.telling = {}    # checkpoint that was taken: its cover, whose rows are still to go
        r.left = {}       # checkpoint: cover of a take that was left, or of a snapshot that is being purged
        r.void = set()    # checkpoints whose snapshot is not what their links say
        r.held = set()    # those whose pages are here, and were made, checked or taken here
        # The DAG service.
        r.blocks, r.pages = set(), set()
        # Memory.
        r.heard, r.arrived, r.folds = set(), set(), {}
        r.purging = {}    # DAG: Purge
        # For the checks alone.
        r.buried = set()    # versions that were dead here once
        r.early_here = False  # a take was left: versions may be here before their blocks
        r.dirty = r.upgraded = False
        r.ghosts = set()    # tombstones of blocks that have been purged
        r.outranks, r.events, r.before = [], [], {}
        r.one_pass = world.rnd.random() < .3  # phase 2 goes along with the pages

    # -- marks

    def state(r, id):
        """A mark is a row, or membership in the cover of a checkpoint that is, or was, held."""
        return UNKNOWN if r.hidden(id) else r.stored(id)

    def stored(r, id):
        if mutant == 'pending-row-first' and r.marks.get(id) == PENDING:
            return PENDING
        if mutant != 'membership-not-a-mark' and any(id in c for c in r.covers.values()):
            return COMPLETE
        return r.marks.get(id, UNKNOWN)

    def hidden(r, id):
        return mutant != 'purge-hides-late' and any(id in p.gone for p in r.purging.values())

    def merged(r, id):
        return r.state(id) in MERGED

    def all_merged(r):
        return {b for b, m in r.marks.items() if m in MERGED}.union(*r.covers.values())

    def block(r, id):
        return r.world.blocks[id]

    def being_taken(r, id):
        return mutant != 'no-phase-0' and any(id in r.block(t.c).snap.cover for t in r.taking.values())

    def pending(r, dag):
        return {b for b in r.marks if r.state(b) == PENDING and r.block(b).dag == dag}

    def tops(r, dag):
        """What the next block links to. The old module also builds on blocks whose history is not all
        here, and its releases know nothing of DAGs: they link to the tops of all, from the unnamed one."""
        if not r.old:
            return {h for h in r.heads if r.block(h).dag == dag and not r.hidden(h)}
        mine = {b for b in r.all_merged() if r.old == 'release' or r.block(b).dag == dag}
        return mine.difference(*(r.block(b).links for b in mine)) if r.old == 'tip' or not dag else set()

    # -- the set

    def touch(r, key):
        if key not in r.before:
            r.before[key] = view(l.version for l in r.live.values() if l.version.key == key).get(key)

    def add(r, v, kept):
        r.touch(v.key)
        at_once(v[:2] not in r.buried, f'replica {r.n}: {v[:2]} came back from the dead')
        if v[:2] not in r.live or not kept:
            r.live[v[:2]] = Live(v, kept)

    def kill(r, key, id):
        r.touch(key)
        if r.live.pop((key, id), None):
            r.buried.add((key, id))
            at_once((key, id) in r.world.dead, f'replica {r.n}: {(key, id)} was removed and nobody asked for it')

    def remove(r, key, id):
        """Merges a tombstone. A version may be here before its block, in and after a take:
        then the row keeps it from coming back with a page or with its block."""
        if r.merged(id):
            r.kill(key, id)
        else:
            here, taken = (key, id) in r.live, r.being_taken(id)
            r.world.tally['tombstones for blocks being taken, version here' if here else 'tombstones for blocks being taken, not here'] += taken
            if not (mutant == 'tombstone-only-row' and taken or mutant == 'both-only-while-taken' and not taken):
                r.kill(key, id)
            if not (mutant == 'tombstone-only-removes' and taken and here or mutant == 'here-means-merged' and here):
                r.early.add((key, id))
                if r.hidden(id):
                    r.ghosts.add((key, id))  # too much, if the purge does not come to its end
        r.buried.add((key, id))

    # -- merging a block: one commit

    def merge(r, id):
        b = r.block(id)
        r.arrived.discard(id)
        r.heard.discard(id)
        if r.state(id) != UNKNOWN:
            r.queue.discard(id)
            return
        if any(id in p.gone for p in r.purging.values()):
            return  # to be fetched anew
        if r.being_taken(id) and mutant != 'merged-after-page':
            r.world.tally['blocks that came while being taken'] += 1
            return  # its queue row stays, in case the take is left
        if b.bad and not r.old:
            r.queue.discard(id)
            r.settle(id, REFUSED)
            return
        r.blocks.add(id)
        r.world.tally['blocks merged beside a take'] += bool(r.taking)
        if r.dirty and any(id in r.block(h).own for h in r.heads):
            r.nohead.add(id)  # nobody can know, and until repair such a block may be a head too many
        for t in b.tombs:
            r.remove(*t)
        for v in b.versions:
            if v[:2] in r.early:
                r.early.discard(v[:2])
            else:
                r.add(v, kept=False)
        r.place(b)

    def place(r, b):
        states = {l: r.state(l) for l in b.links}
        r.queue |= {l for l in states if states[l] == UNKNOWN}
        r.queue.discard(b.id)
        missing = {l for l in states if states[l] in (UNKNOWN, PENDING)}
        for l in missing:
            r.waits.setdefault(l, set()).add(b.id)
        if STRANDED in states.values() or REFUSED in states.values():
            r.settle(b.id, STRANDED)
        elif missing:
            r.marks[b.id], r.missing[b.id] = PENDING, len(missing)
        else:
            r.settle(b.id, COMPLETE)

    def settle(r, id, state):
        b = r.block(id)
        r.marks[id] = state
        if state == COMPLETE:
            r.heads -= {l for l in b.links if r.block(l).dag == b.dag}
            if id not in r.nohead:
                r.heads.add(id)
            if b.snap and mutant == 'unchecked-cover':
                r.covers[id] = b.snap.cover
        r.nohead.discard(id)
        for parent in sorted(r.waits.pop(id, ())):
            r.tell(parent, id)

    def tell(r, parent, child):
        if r.state(parent) != PENDING:
            return  # also when it has come under a cover
        r.missing[parent] -= 1
        if r.state(child) != COMPLETE:
            del r.missing[parent]
            r.settle(parent, STRANDED)
        elif not r.missing[parent]:
            del r.missing[parent]
            r.settle(parent, COMPLETE)

    # -- local writes

    def write(r, dag, elems=(), tombs=(), skips=0, boost=0, bad=False, stray=()):
        dag = '' if r.old == 'release' else dag
        elems, links = dict(elems), r.tops(dag)
        above = [r.block(b).height for b in links | r.pending(dag)]
        if mutant != 'writes-below-take':  # of whatever DAG
            above += [r.block(t.c).height for t in r.taking.values()]
        above += [l.version.priority for l in r.live.values() if l.version.key in elems]
        old = sorted(set().union(*(r.block(l).below for l in links)) - links)
        skips = r.world.rnd.sample(old, min(skips, len(old)))
        b = r.world.new(dag, links | set(skips) | set(stray), max(above, default=0) + 1 + boost, elems, tombs, bad=bad)
        r.outranks += [(k, b.id, r.block(t.c).snap.cover) for k in elems for t in r.taking.values()]
        r.publish(b)
        return b

    def publish(r, b):
        bad, b.bad = b.bad, False  # the author has no objections
        r.merge(b.id)
        b.bad = bad

    def live_of(r, key):
        return sorted(v for v in r.live if v[0] == key)

    # -- making a checkpoint

    def fold_begin(r, dag):
        if r.tops(dag) and dag not in r.purging:
            r.folds[dag] = frozenset(r.tops(dag))

    def fold_end(r, dag, skips=0, stray=()):
        """Publishes c. Its links are the heads that were folded, and nothing else that is not covered.
        stray: in the store of an old release heads of other DAGs may pass for heads of this one."""
        heads = r.folds.pop(dag)
        snap = r.fold(dag, heads)
        if snap is None:
            return None
        if mutant == 'from-the-store':
            mine = {v for v in r.live if v[1] in snap.cover}
            snap = snap._replace(versions=frozenset(r.live[v].version for v in mine))
        if mutant == 'winners-only':
            won = view(snap.versions)
            snap = snap._replace(versions=frozenset(v for v in snap.versions if won[v.key] == v.value))
        if mutant == 'open-tombs-dropped':
            snap = snap._replace(tombs=frozenset())
        links = r.tops(dag) if mutant == 'links-not-folded' else heads
        old = sorted(snap.cover - links)
        if mutant == 'checkpoint-skips-anywhere':
            old = sorted(b for b in r.all_merged() - links if r.state(b) == COMPLETE and r.block(b).dag == dag)
        links = links | set(r.world.rnd.sample(old, min(skips, len(old)))) | set(stray)
        c = r.world.new(dag, links, 1 + max(r.block(l).height for l in heads), {}, (), snap=snap)
        r.world.tally.update({'checkpoints': 1, 'checkpoints beside newer heads': r.tops(dag) != heads, 'checkpoints with open tombstones': bool(snap.tombs),
                              'checkpoints made with roots about': bool(r.pending(dag)), 'checkpoints on other DAGs': bool(stray)})
        at_once(snap.cover == c.own, f'replica {r.n}: {c} covers what is not all below it')
        at_once(snap == r.world.snapshot(c.own), f'replica {r.n}: {c} is not what its blocks say, {r.world.snapshot(c.own)}')
        r.publish(c)
        r.hold(c)
        return c

    def fold(r, dag, heads):
        """The snapshot of all at and below heads, by links within the DAG: a pure function of those
        blocks, made from the newest snapshots held here and the blocks above them. None where that can't be."""
        walked, gone, bases, todo = set(), set(), [], sorted(heads)
        while todo:
            id = todo.pop()
            if id in walked or id in gone:
                continue
            b = r.block(id)
            if id not in r.blocks and not r.world.find(r, lambda o: id in o.blocks):
                gone.add(id)
                continue
            if b.dag != dag and mutant != 'fold-other-dags':
                continue
            walked.add(id)
            use = id in r.held or mutant == 'void-is-base' and b.snap and r.state(id) == COMPLETE
            if use and not (mutant == 'one-base' and bases):
                bases.append(b.snap)
            else:
                todo += sorted(b.links)
        r.world.tally.update({'folds': 1, 'folds that join snapshots': len(bases) > 1})
        under = frozenset().union(*(s.cover for s in bases))
        fresh = [r.block(b) for b in sorted(walked - under)]
        others = set().union(*(cover for c, cover in r.covers.items() if r.block(c).dag != dag))
        if gone - under - others and mutant != 'one-base':
            return None  # purged, or dropped since: begin anew
        if any(b.bad for b in fresh) and mutant != 'fold-refused':
            return None
        if any(r.state(b.id) != COMPLETE for b in fresh) and mutant != 'fold-unmerged':
            return None  # a gap that repair has not filled
        cover = under | {b.id for b in fresh}
        tombs = frozenset().union(*(s.tombs for s in bases), *(b.tombs for b in fresh))
        found = frozenset().union(*(s.versions for s in bases), *(b.versions for b in fresh))
        alive = lambda v: v[:2] not in tombs and (mutant == 'join-keeps-all' or all(v in s.versions for s in bases if v.block in s.cover))
        still = lambda t: t[1] not in cover
        if mutant == 'fold-touches-changes-only':
            touched = {t for b in fresh for t in b.adds | b.tombs}
            still = lambda t: t[1] not in cover or t not in touched
        return Snapshot(frozenset(filter(alive, found)), frozenset(filter(still, tombs)), cover)

    def hold(r, c):
        """The snapshot is right, and all its pages are here: the cover counts as marks from now on."""
        r.pages |= set(c.pages)
        r.held.add(c.id)
        r.covers[c.id] = c.snap.cover
        r.left.pop(c.id, None)

    def verify(r, c):
        """A snapshot that its own fold contradicts is void: c is a block like any other."""
        snap = r.fold(c.dag, c.links)
        if snap is None:
            return None
        if snap != c.snap:
            at_once(c.lie, f'replica {r.n}: {c} is void, which is honest')
            r.void.add(c.id)
            r.world.tally['snapshots found void'] += 1
            return 'void'
        if ('cover', c.id) not in r.pages and not r.world.find(r, lambda o: ('cover', c.id) in o.pages):
            if mutant != 'cover-pages-not-held':
                return None  # it could not serve what c names
            r.hold(c)
            r.pages.discard(('cover', c.id))
            return 'held'
        r.hold(c)
        return 'held'

    # -- taking one

    def may_take(r, c):
        """One at a time in a DAG, and nothing of it is refused here. An upgraded store with gaps may
        have c for complete: it can take it all the same. Whom to trust is not modelled: liars are known."""
        return (r.takes and c.snap and c.dag not in r.purging and c.lie in ('', 'malformed') and r.state(c.id) in (PENDING, COMPLETE) and c.id not in r.void
                and (r.state(c.id) == PENDING or mutant != 'gaps-not-taken' and any(r.state(b) == UNKNOWN for b in c.snap.cover))
                and (c.dag not in r.taking or mutant == 'two-takes' and all(t.c != c.id for t in r.taking.values()))
                and not any(r.marks.get(b) in (REFUSED, STRANDED) for b in c.snap.cover)
                and all(p in r.pages or r.world.find(r, lambda o: p in o.pages) for p in c.pages))

    def take_begin(r, c):
        """Phase 0. All pages have been fetched and checked: that changes nothing, and blocks of C may
        have been merged meanwhile. From this commit on none is."""
        if c.lie and mutant != 'checked-page-by-page':
            r.void.add(c.id)
            return
        removals = bool(r.live)  # a newcomer has nothing to remove
        here = {b for b in c.snap.cover if r.merged(b)}
        r.world.tally.update({'takes': 1, 'takes with some of the cover here': bool(here), 'takes by newcomers': not removals,
                              'takes over holes': any(not r.block(b).own <= here for b in here), 'takes in an upgraded store': r.dirty,
                              'takes beside one in another DAG': bool(r.taking), 'takes after one that was left': r.early_here})
        if mutant == 'removals-only-if-merged':
            removals = any(r.merged(b) for b in c.snap.cover)
        r.pages |= set(c.pages)
        r.left.pop(c.id, None)
        r.taking[c.dag if mutant != 'two-takes' else (c.dag, c.id)] = Take(c.id, removals)
        if mutant == 'queue-forgotten':
            r.queue -= c.snap.cover
        if mutant == 'cover-complete-first':
            r.covers[c.id] = c.snap.cover

    def take_page(r, slot):
        """Phase 1: a page. Harmless when done again."""
        t = r.taking[slot]
        c = r.block(t.c)
        page = c.pages[t.page]
        if page not in r.pages and not r.world.find(r, lambda o: page in o.pages):
            return False  # lost since, and nobody has it
        r.pages.add(page)
        if c.lie and t.page == len(c.pages) - 2:
            r.void.add(c.id)
            r.take_leave(slot)
            return True
        for kind, e in page:
            if kind == 'tombstone':
                if mutant != 'open-tombs-ignored':
                    r.remove(*e)
                continue
            merged = r.merged(e.block)
            if mutant in ('page-ignores-covers', 'cover-complete-first'):
                merged = r.marks.get(e.block) in MERGED
            if merged and mutant != 'page-ignores-merged' or e[:2] in r.early and mutant != 'page-ignores-rows':
                continue
            for key, own, cover in r.outranks:
                at_once(r.world.odd or key != e.key or e.block not in cover or r.block(own).height > e.priority,
                     f'replica {r.n}: {e} of a checkpoint beats #{own}, written while that was taken')
            r.add(e, kept=mutant != 'page-loses-values')
        if r.one_pass and t.removals:
            last = t.page == len(c.pages) - 2
            low = max((e[:2] for p in c.pages[:t.page] for kind, e in p if kind == 'version'), default=('', 0))
            high = max((e[:2] for kind, e in page if kind == 'version'), default=('', 0))
            r.sweep(c, lambda v: low < v and (v <= high or last))
        t.page += 1
        return True

    def sweep(r, c, when):
        """Phase 2, in a range: the versions that C has removed go as if by tombstones."""
        alive = {v[:2] for v in c.snap.versions}
        for v in [v for v in r.live if v[1] in c.snap.cover and v not in alive and when(v)]:
            r.world.tally['versions removed in phase 2'] += 1
            if mutant != 'no-removals':
                (r.kill if mutant == 'removal-leaves-no-row' else r.remove)(*v)

    def pages_done(r, t):
        return t.page == len(r.block(t.c).pages) - 1  # the last is the cover

    def take_sweep(r, slot):
        """Phase 2: one key."""
        t = r.taking[slot]
        key = min((k for k, _ in r.live if k > t.swept), default=None)
        if key is None:
            t.removals = False
        else:
            r.sweep(r.block(t.c), lambda v: v[0] == key)
            t.swept = key

    def take_done(r, slot):
        """Phase 3: c is complete, and with it all of C."""
        t = r.taking.pop(slot)
        c = r.block(t.c)
        r.hold(c)
        r.telling[c.id] = c.snap.cover
        r.world.tally['takes done'] += 1
        if mutant != 'cover-heads-stay':
            r.heads -= c.snap.cover
        if r.state(c.id) == PENDING or mutant == 'done-again':  # else another cover has completed it meanwhile
            r.missing.pop(c.id, None)
            r.settle(c.id, COMPLETE)
        r.buried |= {t for b in c.snap.cover for t in r.block(b).tombs}

    def take_next(r, slot):
        t = r.taking[slot]
        if not r.pages_done(t):
            return r.take_page(slot)
        if t.removals and not r.one_pass and mutant != 'done-before-removals':
            r.take_sweep(slot)
        else:
            r.take_done(slot)
        return True

    def take_tell(r, c):
        """After phase 3, a portion: those that wait for a block of C, or a row of C."""
        cover = r.telling[c]
        for child in sorted(cover & r.waits.keys()):
            if mutant == 'nobody-told':
                break
            for parent in sorted(r.waits.pop(child)):
                r.tell(parent, child)
            return
        for t in sorted(r.early):
            if t[1] in cover and mutant != 'rows-of-cover-stay':
                r.early.discard(t)
                return
        r.queue -= cover
        for b in cover:
            r.missing.pop(b, None)
            r.nohead.discard(b)
            if r.marks.get(b) == PENDING:
                del r.marks[b]
        del r.telling[c]

    def take_leave(r, slot):
        """Back to walking. What was added stays, and queue rows have been there all the time. A row
        says so until c is complete: until then versions may be here before their blocks."""
        c = r.block(r.taking.pop(slot).c)
        r.early_here = True
        if mutant != 'left-forgotten':
            r.left[c.id] = c.snap.cover
        r.world.tally['takes left'] += 1

    # -- dropping

    def drop_block(r, rnd):
        """A block under a snapshot that is held, once the values of its live versions are kept."""
        if mutant == 'drop-before-held':
            under = set().union(*(r.block(c).snap.cover for c in r.marks if r.block(c).snap and r.merged(c)))
        else:
            under = set().union(*(r.block(c).snap.cover for c in r.held))
        some = sorted(r.blocks & under)
        if not some:
            return None
        id = rnd.choice(some)
        if mutant != 'drop-loses-values':
            r.keep_values({id})
        r.blocks.discard(id)
        r.world.dropped = True
        r.world.tally['blocks dropped'] += 1
        return f'drops #{id}'

    def fold_marks(r, rnd):
        """Mark rows under a complete cover go."""
        some = {b for b, m in r.marks.items() if m == COMPLETE}.intersection(set().union(*r.covers.values()))
        for b in sorted(some):
            if rnd.random() < .6:
                del r.marks[b]
        return bool(some)

    def keep_values(r, ids):
        for l in r.live.values():
            l.kept |= l.version.block in ids

    def drop_pages(r):
        """Pages of checkpoints that are themselves below one whose snapshot is held."""
        done = {c for c in r.held if any(c in r.block(o).snap.cover for o in r.held)}
        if mutant == 'two-newest-pages':
            done = {c for dag in DAGS for c in sorted((c for c in r.held if r.block(c).dag == dag), key=lambda c: (r.block(c).height, c))[:-2]}
        if done:
            r.release(done)
        return done

    def release(r, done):
        r.held -= done
        r.pages = r.pages & {p for c in r.held | {t.c for t in r.taking.values()} for p in r.block(c).pages}

    # -- what else happens to a replica

    def crash(r, rnd):
        r.heard, r.arrived, r.folds, r.purging = set(), set(), {}, {}
        for b in sorted(b for b in r.queue if r.state(b) not in (UNKNOWN, PENDING)):  # merged while a purge hid them
            r.queue.discard(b)
            for parent in sorted(r.waits.pop(b, ())):
                r.tell(parent, b)
        for t in r.taking.values():  # it need not, but it may do pages again
            if not r.pages_done(t) and rnd.random() < .5:
                t.page = 0

    def lose_pages(r, rnd):
        """Somebody tidied up the DAG service."""
        some = r.pages - {p for c in r.held for p in r.block(c).pages}
        r.pages -= set(rnd.sample(sorted(some, key=str), min(len(some), rnd.randint(1, 3))))
        return bool(some)

    # -- PurgeDAG: the DAG is forgotten

    def purge_begin(r, dag):
        """From here on, until the end or a crash, blocks of the DAG count as not merged: a tombstone of
        their versions leaves a row, and blocks that are built on them wait. What was taken is told first;
        a take that is going on is left."""
        for c in sorted(c for c in r.telling if r.block(c).dag == dag and mutant != 'purge-before-told'):
            while c in r.telling:
                r.take_tell(c)
        gone = {b for b in r.all_merged() if r.block(b).dag == dag and r.state(b) in (PENDING, COMPLETE)}
        r.world.tally.update({'purges': 1, 'purges amid a take': dag in r.taking, 'purges after a take was left': any(r.block(c).dag == dag for c in r.left),
                              'purges of DAGs with snapshots': any(r.block(c).dag == dag for c in r.held), 'purges beside a take': bool(r.taking.keys() - {dag})})
        if dag in r.taking and mutant != 'purge-beside-take':
            r.take_leave(dag)
        r.folds.pop(dag, None)
        r.purging[dag] = Purge(gone)

    def purge_next(r, dag):
        p = r.purging[dag]
        explain = (lambda: None) if mutant == 'purge-explains-late' else lambda: r.purge_explain(p)
        if p.phase == 'explain':
            explain()
            p.phase = 'forget'
        elif p.phase == 'forget':
            r.purge_forget(dag, p)
            p.phase = 'sweep'
        elif p.phase == 'sweep':
            r.purge_sweep(dag, p)
        else:
            r.purge_done(dag, p)

    def purge_explain(r, p):
        """Rows for what others have removed: what blocks of other DAGs name, or T of their snapshots, as blocks
        may have been dropped; and what the DAG itself would show and is not here, as the DAG that removed it may have been purged."""
        others = {b for b in r.all_merged() if b not in p.gone}
        if mutant == 'purge-asks-blocks-alone':
            others &= r.blocks
        named = set().union(*(r.block(b).tombs for b in others), *(r.block(t.c).snap.tombs for t in r.taking.values()))
        own = r.world.effect(p.gone)[0]
        if mutant == 'purge-asks-of-live-alone':
            named &= own
        rows = {t for t in named if t[1] in p.gone}
        if mutant != 'purge-only-named':
            rows |= {v for v in own if v not in r.live}
        if mutant == 'purge-forgets-others':
            rows = set()
        r.world.tally['rows that purges left'] += len(rows)
        p.rows = frozenset(rows)
        r.early |= rows
        r.ghosts |= rows

    def purge_forget(r, dag, p):
        """Blocks, their versions and marks go. Snapshots become takes that were left: from this commit on their
        covers count no more. In the code, fresh blocks go one by one after what is below them."""
        r.ghosts |= set().union(*(r.block(b).tombs for b in p.gone), *(r.block(c).snap.tombs for c in r.left if r.block(c).dag == dag))
        covered = set().union(*(c for k, c in r.covers.items() if r.block(k).dag == dag))
        for v in [v for v in r.live if v[1] in p.gone - covered]:
            r.forget(v)
        for c in [c for c in r.covers if r.block(c).dag == dag]:
            r.left[c] = r.covers[c]
            if mutant != 'purge-covers-stay':
                del r.covers[c]
        r.early_here = True
        r.purge_blocks(p.gone - covered)
        r.release({c for c in r.held if r.block(c).dag == dag})
        r.heads -= p.gone
        r.nohead -= p.gone
        for b in p.gone:
            r.marks.pop(b, None)
            r.missing.pop(b, None)
        for child in list(r.waits):
            r.waits[child] -= p.gone
            if not r.waits[child]:
                del r.waits[child]
        r.queue = {b for b in r.queue | p.gone if b in r.waits}
        r.buried = {v for v in r.buried if v[1] not in p.gone} | r.early

    def purge_blocks(r, ids):
        """Not before their versions have gone, whose values may stand in them."""
        here = r.blocks & ids
        r.blocks -= here
        r.world.dropped |= any(not any(b in o.blocks for o in r.world.reps) for b in here)

    def forget(r, v):
        """Removes a version as if its block had never come."""
        r.touch(v[0])
        r.live.pop(v, None)

    def purge_sweep(r, dag, p):
        """One key: versions of blocks in covers that are left go, unless the block has been merged again."""
        key = min((k for k, _ in r.live if k > p.swept), default=None)
        if key is None or mutant == 'purge-leaves-versions':
            p.phase = 'done'
            return
        under = set().union(*(cover for c, cover in r.left.items() if r.block(c).dag == dag))
        for v in [v for v in r.live if v[0] == key and v[1] in under and not r.merged(v[1])]:
            r.world.tally['versions that purges found by covers'] += 1
            r.forget(v)
        p.swept = key

    def purge_done(r, dag, p):
        if mutant == 'purge-explains-late':
            r.purge_explain(p)
        r.purge_blocks({b for c, cover in r.left.items() if r.block(c).dag == dag for b in cover if not r.merged(b)})
        r.left = {c: cover for c, cover in r.left.items() if r.block(c).dag != dag}
        del r.purging[dag]
        strange = {v for v in r.live if r.block(v[1]).dag == dag and not r.merged(v[1])}
        at_once(not strange, f'replica {r.n}: a purge has left {strange}')
        known = {b for b in p.gone if r.merged(b)}
        at_once(not known, f'replica {r.n}: blocks {known} are known after a purge')

    def upgrade(r):
        """The store of an old replica is opened: its heads are taken to be complete, which repair has to make true."""
        r.old = 'tip'  # else a head of another DAG would stand in for that of the unnamed one
        r.heads = set().union(*(r.tops(d) for d in DAGS))
        r.old, r.takes, r.upgraded, r.dirty = '', True, True, True
        r.marks = {b: COMPLETE for b in r.marks}
        r.missing, r.waits, r.queue = {}, {}, set()

    def repair(r):
        """Merges one block that is missing below the heads."""
        lost = sorted(b for h in r.heads for b in r.block(h).below if r.state(b) == UNKNOWN and not r.being_taken(b))
        if not lost and not any(r.state(b) == UNKNOWN for h in r.heads for b in r.block(h).below):
            r.dirty = False
        for b in lost:
            if b in r.blocks or r.world.find(r, lambda o: b in o.blocks):
                if any(b in r.block(h).own for h in r.heads):  # below one of another DAG it may be a head
                    r.nohead.add(b)
                r.merge(b)
                return True
        return False

    # -- hearing and fetching

    def hear(r, o, rnd=None):
        said = set().union(*(o.tops(d) for d in DAGS))
        if rnd and rnd.random() < .2:  # an announcement of long ago
            said |= {rnd.choice(sorted(o.blocks))} if o.blocks else set()
        r.heard |= {b for b in said if r.state(b) == UNKNOWN}

    def can_fetch(r):
        return sorted(b for b in (r.heard | r.queue) - r.arrived
                      if not r.being_taken(b) and r.world.find(r, lambda o: b in o.blocks))

    def fetch(r, id):
        r.blocks.add(id)
        r.arrived.add(id)

    # -- the end of a commit

    def finish(r):
        r.left = {c: cover for c, cover in r.left.items() if r.state(c) != COMPLETE}
        r.early_here = bool(r.left)
        for key, was in sorted(r.before.items()):
            now = view(l.version for l in r.live.values() if l.version.key == key).get(key)
            if was is not None and now is None:
                r.events.append((key, None))
            elif now != was:
                r.events.append((key, now))
        r.before = {}


# -- checks

def inspect(r):
    """What holds after every commit."""
    if late:
        return
    w, merged, who = r.world, r.all_merged(), f'replica {r.n}:'
    live, early = w.effect(merged)
    if r.taking or r.early_here:
        for v in live - r.live.keys():
            at_once(v in w.dead, who, v, 'is merged, alive and not here')
        for v in r.live.keys() - live:
            at_once(v[1] not in merged, who, v, 'is merged, dead and here')
    else:
        at_once(r.live.keys() <= live and live - r.live.keys() <= r.ghosts, who, 'has', sorted(r.live), 'and what it merged says', sorted(live))
        at_once(early <= r.early, who, 'has forgotten tombstones', early - r.early)
        extra = {t for t in r.early - early - r.ghosts if t in w.blocks[t[1]].adds}
        at_once(r.telling or not extra, who, 'keeps tombstones of merged blocks', extra)
    for v, l in r.live.items():
        at_once(l.kept or v[1] in r.blocks, who, 'has lost the value of', v)
    served = r.blocks.union(*(w.blocks[c].snap.cover for c in r.held))
    for c in r.held:
        at_once(r.pages.issuperset(w.blocks[c].pages), who, 'lacks pages of', c)
    known = {b for b in merged if r.state(b) == COMPLETE}
    at_once(r.old or r.dirty or known <= served, who, 'cannot serve', known - served)
    if r.dirty:
        return
    for b in known:
        at_once(w.blocks[b].own <= known, who, b, 'is complete without', w.blocks[b].own - known)
    if not r.old:
        linked = {(w.blocks[b].dag, l) for b in known for l in w.blocks[b].links}
        tops = {b for b in known if (w.blocks[b].dag, b) not in linked}
        at_once({h for h in r.heads if not r.hidden(h)} == tops, who, 'has heads', sorted(r.heads), 'and should have', sorted(tops))


def verdict(w):
    """What holds when all could talk to all."""
    tops = [r.tops(d) for r in w.reps for d in DAGS]
    ids, todo = set(), set().union(*tops)
    bad = {b.id for b in w.blocks if b.bad}
    while todo:  # all that can be reached without passing a refused block
        id = todo.pop()
        if id not in ids and id not in bad:
            ids.add(id)
            todo |= w.blocks[id].links
    want = view(v for v in w.snapshot(ids).versions)
    judged = [r for r in w.reps if (r.takes or not w.dropped) and not (bad and (r.old or r.upgraded))]
    heads = {}
    for r in judged:
        who = f'replica {r.n} at the end:'
        have = view(l.version for l in r.live.values())
        must(have == want, who, 'has', have, 'and history says', want)
        must(r.all_merged() >= ids, who, 'misses', ids - r.all_merged())
        said = {}
        for key, value in r.events:
            said.pop(key, None) if value is None else said.update({key: value})
        must(said == have, who, 'hooks said', said, 'for', have)
        must(not r.queue and not r.taking and not r.telling and not r.missing and not r.purging, who, 'is not done:', r.queue, r.taking, r.telling, r.missing, r.purging)
        must(bad or not r.waits, who, 'has', r.waits, 'waiting')
        left = {t for t in r.early - r.ghosts if r.merged(t[1]) and t in w.blocks[t[1]].adds}
        must(not left, who, 'keeps tombstones of merged blocks', left)
        if r.old:
            continue
        for dag in DAGS:
            mine, theirs = r.tops(dag), heads.setdefault(dag, r.tops(dag))
            must(mine == theirs, who, 'has heads', mine, 'others', theirs)
            strange = any(w.blocks[b].bad for h in mine for b in w.blocks[h].below | {h})
            if mine and not strange:
                snap = r.fold(dag, mine)
                must(snap == w.snapshot(mine.union(*(w.blocks[h].own for h in mine))), who, 'cannot fold', mine, 'or not well:', snap)


def heal(w):
    """Everybody is there, hears everybody and tries everything, until nothing moves."""
    rnd = w.rnd
    for r in w.reps:
        r.online = True
    for _ in range(100):
        moved = False
        for r in rnd.sample(w.reps, len(w.reps)):
            moved |= catch_up(r, rnd)
        if not moved:
            return
    must(False, 'it does not come to rest')


def catch_up(r, rnd):
    mark = lambda: (dict(r.marks), set(r.covers), set(r.queue), set(r.heads), len(r.waits), r.dirty, set(r.telling))
    before = mark()
    for dag in sorted(r.purging):
        while dag in r.purging:
            step(r, r.purge_next, dag)
    for o in r.world.reps:
        r.hear(o)
    ways = [walk_all, take_all]
    for way in ways if rnd.random() < .7 else ways[::-1]:
        way(r, rnd)
    while r.telling:
        step(r, r.take_tell, min(r.telling))
    while r.dirty and r.repair():
        step(r, lambda: None)
    return mark() != before or bool(ready(r))


def ready(r):
    """What can be taken, if there is a reason: something is missing."""
    return [c for c in map(r.block, sorted(r.marks)) if (r.queue or r.dirty) and r.may_take(c)]


def walk_all(r, rnd):
    while r.arrived or r.can_fetch():
        for b in r.can_fetch():
            r.fetch(b)
        step(r, r.merge, rnd.choice(sorted(r.arrived)))


def take_all(r, rnd):
    for slot in sorted(r.taking):
        while slot in r.taking:
            if not step(r, r.take_next, slot):
                if mutant == 'unstick-never':
                    break
                step(r, r.take_leave, slot)
    if ready(r) and (not r.can_fetch() or rnd.random() < .5):
        step(r, r.take_begin, rnd.choice(ready(r)))
        for slot in sorted(r.taking):
            while slot in r.taking and step(r, r.take_next, slot):
                pass


def step(r, f, *args):
    done = f(*args)
    r.finish()
    inspect(r)
    return done


# -- random schedules

class Schedule:
    """One seed: a world of its own kind, then steps at random."""

    def __init__(s, seed):
        rnd = s.rnd = random.Random(seed)
        s.w = w = World(rnd)
        s.drops, s.purges, s.lies, s.upgrades = (rnd.random() < p for p in (.6, .25, .25, .5))
        s.bad, s.stray = rnd.random() < .12, rnd.random() < .08  # one bad block, one link into another DAG
        w.odd = rnd.random() < .15                               # some priorities lie
        s.tombs = rnd.choice((.1, .3, .5))
        s.dags = ('d', 'd', '') if s.purges else ('', '', 'd')
        for i in range(rnd.randint(2, 4)):
            Replica(w, old=s.kind(.2) if i else '', takes=rnd.random() < .9)
        s.weights = {a: rnd.choice((.3, 1, 1, 3)) * p for a, p in s.ACTIONS.items()}

    ACTIONS = dict(
        put=5, delete=5, batch=1.5, tidy=.5, odd_tombs=.5, bad_block=2, stray_link=1,
        hear=14, fetch=20, merge=40, sync=4, offline=.8,
        checkpoint=4, fold_begin=2, fold_end=6, lie=.4, verify=8,
        take=60, take_next=60, take_tell=30, take_leave=3, lose_pages=6,
        drop=4, fold_marks=2, drop_pages=5, purge=30, purge_next=40,
        crash=.4, join=.7, retire=.3, upgrade=1, repair=6)

    def kind(s, old):
        return s.rnd.choice(('tip', 'release')) if s.rnd.random() < old else ''

    def run(s):
        names, weights = list(s.weights), list(s.weights.values())
        for _ in range(s.rnd.randint(20, 100)):
            for name in s.rnd.choices(names, weights, k=40):  # until something happens
                r = s.rnd.choice(s.w.reps)
                what = getattr(s, name)(r)
                r.finish()
                if what:
                    s.w.log.append(f'{r.n} {what if isinstance(what, str) else name}')
                    inspect(r)
                    break
        s.w.log.append('heal')
        heal(s.w)
        verdict(s.w)

    def dag(s):
        return s.rnd.choice(s.dags)

    def put(s, r):
        key, rnd = s.rnd.choice(KEYS), s.rnd
        boost = rnd.randint(1, 9) if s.w.odd and r.old and rnd.random() < .3 else 0
        tombs = r.live_of(key) if rnd.random() < .25 else ()  # superseding
        return f'writes {r.write(s.dag(), {key: rnd.choice("uvwxyz")}, tombs, skips=rnd.choice((0, 0, 1, 2)), boost=boost)}'

    def delete(s, r):
        tombs = r.live_of(s.rnd.choice(KEYS))
        return tombs and s.rnd.random() < 2 * s.tombs and f'writes {r.write(s.dag(), tombs=tombs)}'

    def batch(s, r):
        puts = {k: s.rnd.choice('uvwxyz') for k in KEYS if s.rnd.random() < .5}
        tombs = [v for k in KEYS if s.rnd.random() < s.tombs for v in r.live_of(k)]
        return (puts or tombs) and f'writes {r.write(s.dag(), puts, tombs, skips=s.rnd.choice((0, 1)))}'

    def tidy(s, r):
        best = {k: max(r.live_of(k), key=lambda v: (r.live[v].version.priority, r.live[v].version.value, v)) for k in KEYS if r.live_of(k)}
        tombs = [v for v in r.live if best[v[0]] != v]
        return tombs and f'tidies {r.write(s.dag(), tombs=tombs)}'

    def odd_tombs(s, r):
        """Tombstones for versions that the author has not seen, or that do not exist."""
        if not s.w.blocks:
            return None
        return f'writes {r.write(s.dag(), tombs=[(s.rnd.choice(KEYS), s.rnd.choice(s.w.blocks).id)])}'

    def bad_block(s, r):
        if not s.bad or not r.old:
            return None
        s.bad = False
        return f'writes {r.write(s.dag(), {s.rnd.choice(KEYS): "bad"}, bad=True)}'

    def stray_link(s, r):
        dag = s.dag()
        others = [b for b in r.blocks if s.w.blocks[b].dag != dag and r.state(b) == COMPLETE]
        if not s.stray or not others:
            return None
        s.stray = False
        return f'writes {r.write(dag, stray=[s.rnd.choice(others)])}'

    def hear(s, r):
        o = s.rnd.choice(s.w.reps)
        before = len(r.heard)
        if o is not r and o.online and r.online:
            r.hear(o, s.rnd)
        return len(r.heard) > before and f'hears {o.n}'

    def fetch(s, r):
        some = [b for b in r.can_fetch() if s.rnd.random() < .4]
        for b in some:
            r.fetch(b)
        return some and f'fetches {some}'

    def merge(s, r):
        if not r.arrived:
            return False
        b = s.rnd.choice(sorted(r.arrived))
        r.merge(b)
        return f'merges {b}: {r.state(b)}'

    def sync(s, r):
        o = s.rnd.choice(s.w.reps)
        if o is r or not o.online or not r.online:
            return False
        r.hear(o)
        before = r.all_merged()
        for _ in range(s.rnd.choice((1, 1, 2, 6))):
            for b in r.can_fetch()[-s.rnd.randint(1, 3):]:
                r.fetch(b)
                r.merge(b)
                r.finish()
                inspect(r)
        return f'hears {o.n} and merges {sorted(r.all_merged() - before)}'

    def checkpoint(s, r):
        dag = s.dag()
        if r.old or r.world.rnd.random() < .5:
            return False
        r.fold_begin(dag)
        c = dag in r.folds and r.fold_end(dag, s.rnd.choice((0, 0, 1)))
        return c and f'makes {c}'

    def fold_begin(s, r):
        if not r.old and not r.folds:
            r.fold_begin(s.dag())
        return r.folds and f'begins to fold {r.folds}'

    def fold_end(s, r):
        if not r.folds:
            return False
        dag = s.rnd.choice(sorted(r.folds))
        others = [b for b in r.blocks if s.w.blocks[b].dag != dag and r.state(b) == COMPLETE and not dag]
        stray = [s.rnd.choice(others)] if others and s.rnd.random() < .1 else ()
        c = r.fold_end(dag, s.rnd.choice((0, 0, 1)), stray)
        return c and f'makes {c}'

    def lie(s, r):
        """A checkpoint whose snapshot is made up, of a peer that is known not to be trusted."""
        dag, rnd = s.dag(), s.rnd
        links = r.tops(dag)
        if not s.lies or not links or r.old:
            return False
        below = links.union(*(s.w.blocks[l].own for l in links))
        snap = s.w.snapshot(below)
        how = rnd.choice(('omits', 'covers', 'kills', 'malformed', 'malformed'))
        if how == 'omits':
            snap = snap._replace(versions=frozenset(list(sorted(snap.versions))[1:]))
        elif how == 'covers':
            snap = snap._replace(cover=snap.cover | {rnd.choice(s.w.blocks).id})
        elif how == 'kills':
            snap = snap._replace(tombs=snap.tombs | {(k, b.id) for k in KEYS for b in s.w.blocks[-1:]})
        else:  # its author is trusted, but it breaks off after some pages
            snap = snap._replace(versions=snap.versions | {Version(k, b, 99, 'made up') for b in sorted(below)[:2] for k in KEYS if k not in s.w.blocks[b].elems})
        if snap == s.w.snapshot(below):
            return False
        b = s.w.new(dag, links, 1 + max(s.w.blocks[l].height for l in links), {}, (), snap=snap, lie=how)
        r.publish(b)
        if how == 'malformed':
            r.pages |= set(b.pages)
        return f'lies {b}'

    def verify(s, r):
        some = [c for c in map(r.block, sorted(r.marks)) if c.snap and r.state(c.id) == COMPLETE and c.dag not in r.purging and c.id not in r.held | r.void]
        if not some or r.old:
            return False
        c = s.rnd.choice(some)
        what = r.verify(c)
        return what and f'verifies {c.id}: {what}'

    def take(s, r):
        some = [c for c in map(r.block, sorted(r.marks)) if r.may_take(c)]
        if not some:
            return s.hear_checkpoint(r)
        c = s.rnd.choice(some)
        r.take_begin(c)
        return f'takes {c}, {len(c.pages) - 1} pages, {"sweeping" if r.one_pass else ""}'

    def hear_checkpoint(s, r):
        some = [c.id for c in s.w.blocks if c.snap and r.state(c.id) == UNKNOWN and s.w.find(r, lambda o: c.id in o.blocks)]
        if not some or not r.takes or s.rnd.random() < .5:
            return False
        c = s.rnd.choice(some)
        r.fetch(c)
        r.merge(c)
        return f'hears of checkpoint {c} and merges it: {r.state(c)}'

    def take_next(s, r):
        if not r.taking:
            return False
        slot = s.rnd.choice(sorted(r.taking))
        t = r.taking[slot]
        r.take_next(slot)
        return f'goes on taking {t.c}: page {t.page}, swept {t.swept!r}{"" if slot in r.taking else ", done"}'

    def take_leave(s, r):
        if not r.taking:
            return False
        slot = s.rnd.choice(sorted(r.taking))
        c = r.taking[slot].c
        r.take_leave(slot)
        return f'leaves {c}'

    def lose_pages(s, r):
        return r.taking and r.lose_pages(s.rnd)

    def take_tell(s, r):
        if not r.telling:
            return False
        c = s.rnd.choice(sorted(r.telling))
        r.take_tell(c)
        return f'tells of {c}'

    def drop(s, r):
        if not s.drops or r.old:
            return False
        what = [r.drop_block(s.rnd) for _ in range(s.rnd.randint(1, 6))]
        return ', '.join(filter(None, what))

    def fold_marks(s, r):
        return r.fold_marks(s.rnd)

    def drop_pages(s, r):
        return s.drops and f'drops pages of {r.drop_pages()}'

    def crash(s, r):
        r.crash(s.rnd)
        return True

    def offline(s, r):
        if r.online and s.rnd.random() < .6:
            return False
        r.online = not r.online
        return 'is on line' if r.online else 'is cut off'

    def join(s, r):
        if len(s.w.reps) > 5:
            return False
        n = Replica(s.w, old=s.kind(.1), takes=s.rnd.random() < .9)
        return f'sees {n.n} come'

    def retire(s, r):
        """A replica goes for good when each of its blocks is complete at another."""
        others = [o for o in s.w.reps if o is not r and not o.old and not o.dirty]
        if r.n == 0 or any(b.bad for b in s.w.blocks) or s.purges or not all(
                any(o.state(b) == COMPLETE for o in others) for b in r.all_merged()):
            return False
        s.w.reps.remove(r)
        s.w.dropped |= any(not any(b in o.blocks for o in s.w.reps) for b in r.blocks)
        return 'goes for good'

    def purge(s, r):
        """Only where replica 0 has all of it, and nothing is amiss here: checkpoints or not, who lacks some
        of it could not get it else, and no repair would find a gap."""
        keeper = next(o for o in s.w.reps if o.n == 0)
        mine = {b for b in r.all_merged() | r.arrived if s.w.blocks[b].dag == 'd'}
        if s.rnd.random() < .7 and r.online and keeper.online and not keeper.dirty:
            keeper.hear(r)
            walk_all(keeper, s.rnd)
        if r.n == 0 or r.old or r.dirty or r.purging or not s.purges or not mine or any(keeper.state(b) != COMPLETE for b in mine):
            return False
        r.purge_begin('d')
        return True

    def purge_next(s, r):
        if not r.purging:
            return False
        dag = s.rnd.choice(sorted(r.purging))
        phase = r.purging[dag].phase
        r.purge_next(dag)
        return f'goes on purging {dag!r}: {phase}'

    def upgrade(s, r):
        if not r.old or not s.upgrades:
            return False
        r.upgrade()
        return True

    def repair(s, r):
        return r.dirty and r.repair()


# -- small worlds, every order

class Small:
    """A few blocks, some of them checkpoints, and one replica that takes every possible sequence of steps."""

    def __init__(s, seed, limit=20000):
        rnd = random.Random(seed)
        s.limit = limit
        s.w = w = World(rnd)
        s.budget = rnd.choice(((0, 1, 1), (1, 1, 1), (1, 0, 1), (2, 0, 0)))  # takes left, crashes, writes
        authors = [Replica(w), Replica(w)]
        s.r = r = Replica(w)
        size, snaps = rnd.randint(4, 7), rnd.choice((1, 2, 2))
        while len(w.blocks) < size:
            a, b = rnd.sample(authors, 2)
            x, dag = rnd.random(), '' if rnd.random() < .8 else 'd'
            if x < .3:
                key = rnd.choice('ab')
                a.write(dag, {key: rnd.choice('uv')}, a.live_of(key) if rnd.random() < .3 else ())
            elif x < .55 and a.live:
                a.write(dag, tombs=a.live_of(rnd.choice(sorted(a.live))[0]))
            elif x < .8 and a.tops(dag) and sum(b.snap is not None for b in w.blocks) < snaps:
                a.fold_begin(dag)
                a.fold_end(dag)
            elif x < .9:
                a.hear(b)
                walk_all(a, rnd)
        if rnd.random() < .5:  # a laggard has some of it already
            for b in rnd.sample(range(size), rnd.randint(0, size // 2)):
                r.merge(b)
        for a in authors:  # they have it all, and serve it
            a.finish()
            for o in w.reps:
                a.hear(o)
            walk_all(a, rnd)
        r.finish()
        s.worth = any(b.snap for b in w.blocks)

    def run(s):
        if not s.worth:
            return
        seen, todo = set(), [(s.r, s.budget, ())]
        while todo:
            r, budget, path = todo.pop()
            moves = list(s.moves(r, budget))
            for name, f, cost in moves:
                w, n = s.clone(r)
                trail = path + (name,)
                try:
                    f(n)
                    n.finish()
                    inspect(n)
                    left = tuple(a - c for a, c in zip(budget, cost))
                    key = s.key(n, left)
                    if key not in seen:
                        seen.add(key)
                        todo.append((n, left, trail))
                except Wrong as e:
                    raise Wrong(f'{e}\n  after {"; ".join(trail)}\n  blocks\n    ' + '\n    '.join(str(b) for b in w.blocks))
            if not any(cost == (0, 0, 0) for _, _, cost in moves):
                try:
                    w, n = s.clone(r)
                    w.rnd = random.Random(0)
                    for o in w.reps:
                        o.hear(n)
                    heal(w)
                    verdict(w)
                except Wrong as e:
                    raise Wrong(f'{e}\n  after {"; ".join(path)}\n  blocks\n    ' + '\n    '.join(str(b) for b in w.blocks))
            if len(seen) > s.limit:
                s.w.tally['small worlds cut short'] += 1
                break
        s.w.tally.update({'small worlds that have a checkpoint': 1, 'states': len(seen)})

    def clone(s, r):
        w = copy.copy(r.world)
        w.blocks, w.dead, w.tally = list(w.blocks), set(w.dead), Counter()
        w.reps = []
        for o in r.world.reps:
            n = copy.copy(o)
            n.world = w
            for k, v in vars(o).items():
                if isinstance(v, (set, list, dict)):
                    setattr(n, k, copy.copy(v))
            n.waits = {c: set(p) for c, p in o.waits.items()}
            n.taking = {d: copy.copy(t) for d, t in o.taking.items()}
            n.live = {k: Live(l.version, l.kept) for k, l in o.live.items()}
            w.reps.append(n)
        return w, next(n for n in w.reps if n.n == r.n)

    def key(s, r, budget):
        takes = tuple((d, t.c, t.page, t.removals, t.swept) for d, t in sorted(r.taking.items()))
        waits = frozenset((c, p) for c, ps in r.waits.items() for p in ps)
        return (frozenset(r.live), frozenset(r.early), frozenset(r.marks.items()), frozenset(r.missing.items()), waits, frozenset(r.queue),
                frozenset(r.heads), frozenset(r.covers), takes, frozenset(r.telling), frozenset(r.held), frozenset(r.blocks), frozenset(r.buried), len(r.world.blocks),
                budget, frozenset(r.arrived), frozenset(r.left))

    def moves(s, r, budget):
        leaves, crashes, writes = budget
        free = (0, 0, 0)
        for b in range(len(r.world.blocks)):
            if r.state(b) == UNKNOWN and not r.being_taken(b):
                yield f'merge {b}', lambda n, b=b: n.merge(b), free
        for c in r.world.blocks:
            if r.may_take(c):
                yield f'take {c.id}', lambda n, c=c: n.take_begin(c), free
        for slot, t in sorted(r.taking.items()):
            yield f'go on with {t.c}', lambda n, slot=slot: n.take_next(slot), free
            if leaves:
                yield f'leave {t.c}', lambda n, slot=slot: n.take_leave(slot), (1, 0, 0)
            if crashes and t.page:
                yield f'crash, and {t.c} again', lambda n, slot=slot: setattr(n.taking[slot], 'page', 0), (0, 1, 0)
        for c in sorted(r.telling):
            yield f'tell of {c}', lambda n, c=c: n.take_tell(c), free
        if r.held and crashes:
            yield 'drop', lambda n: [n.drop_block(random.Random(0)) for _ in range(9)] + [n.fold_marks(random.Random(0))], (0, 1, 0)
        if writes:
            for key in sorted({k for k, _ in r.live}):
                yield f'delete {key}', lambda n, key=key: n.write('', tombs=n.live_of(key)), (0, 0, 1)
            yield 'put a', lambda n: n.write('', {'a': 'w'}), (0, 0, 1)


# -- the command line

def try_seed(args):
    kind, seed, name, only_end = args
    global mutant, late
    mutant, late = name, only_end
    try:
        s = Small(seed) if kind == 'small' else Schedule(seed)
        s.run()
        return seed, None, s.w.tally
    except Wrong as e:
        return seed, str(e), Counter()
    except Exception as e:  # a mutant may leave nonsense behind
        if not name:
            raise
        return seed, f'{type(e).__name__}: {e}', Counter()


def many(kind, count, first, pool):
    begun, bad, tally = time.time(), [], Counter()
    for seed, error, counts in pool.imap_unordered(try_seed, ((kind, s, '', False) for s in range(first, first + count)), chunksize=20):
        tally += counts
        if error:
            bad.append(seed)
            if len(bad) <= 5:
                print(f'seed {seed}: {error}', flush=True)
    print(', '.join(f'{n} {what}' for what, n in sorted(tally.items())))
    print(f'{count} {"small worlds" if kind == "small" else "seeds"} from {first}: {len(bad)} wrong, {time.time() - begun:.0f} s', sorted(bad)[:20])
    return not bad


def mutants(count, names, pool, only_end):
    missed = 0
    for name in names:
        for kind, n in (('random', count), ('small', count // 10)):
            caught = next((x for x in pool.imap(try_seed, ((kind, s, name, only_end) for s in range(n)), chunksize=4) if x[1]), None)
            if caught:
                break
        missed += not caught
        print(f'{"caught" if caught else "MISSED"}  {name}: {MUTANTS[name]}')
        if caught:
            print(f'        by {kind} {caught[0]}: {caught[1].splitlines()[0][:170]}', flush=True)
    print(f'{len(names)} mutants, {missed} missed')
    return not missed


def main(args):
    global mutant
    if args and args[0] in ('--trace', '--small-trace'):
        mutant = args[2] if len(args) > 2 else ''
        s = (Schedule if args[0] == '--trace' else Small)(int(args[1]))
        try:
            s.run()
        except Wrong as e:
            print(e)
        print('\n'.join(s.w.log))
        return True
    with multiprocessing.Pool(2) as pool:
        if args and args[0].startswith('--mutants'):
            return mutants(int(args[1]) if len(args) > 1 else 4000, args[2:] or list(MUTANTS), pool, args[0] == '--mutants-late')
        kind = 'small' if args and args[0] == '--small' else 'random'
        numbers = [int(a) for a in args if not a.startswith('-')]
        return many(kind, numbers[0] if numbers else 2000, numbers[1] if len(numbers) > 1 else 0, pool)


if __name__ == '__main__':
    sys.exit(not main(sys.argv[1:]))
