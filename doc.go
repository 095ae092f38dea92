// Package crdt is a go-datastore that replicates itself. Any number of
// replicas write at the same time, connected or not; replicas that have seen
// the same changes hold the same pairs.
//
// It needs three things from the program around it: a go-datastore for its
// rows, an [ipld.DAGService] that stores blocks and gets them from peers, and
// a [Broadcaster] that carries small messages to all peers. [New] puts them
// together. Everything else in this text is for those who look inside.
//
// # Nouns
//
//   - A delta is a change set: elements (key and value) that are added, and
//     tombstones, each of which removes one version.
//   - An element or tombstone is void if its key, once clean, can hold no value
//     (the root key, one that is too long or not UTF-8). It is left out of its
//     delta, as if it were not there.
//   - A block is a delta in a dag-pb node that links to the blocks it was
//     built on, and sometimes, by a skip link, to a much older one. Its CID
//     names it for ever. Blocks are kept by the DAG service. What a block links to
//     are its children: they are older than it is, and below it.
//   - A tag is 8 random bytes in each delta that adds elements, so that equal
//     Puts, of two writers or of one, are different blocks. Deltas of users' own
//     types have none.
//   - A link names a block by its CID of version 1, or, in histories that began
//     before 2021, of version 0. It is one block; it is asked for by the CID of
//     the link, and by the other one if it cannot be found.
//   - A summary is a block that stands for a history: what it links to is
//     neither fetched nor waited for. Each of its elements is a claim about an
//     older block: what that gave to a key, at what priority. A claim is a
//     version until the older block is merged; from then on that alone counts.
//     Old peers may come to write summaries, which they call snapshots; this code
//     only reads them.
//   - A checkpoint is a block that carries the joint effect of all blocks of its DAG
//     below it. These are its cover. What it carries is its snapshot: the versions that
//     are live in the cover, the tombstones in it of versions whose blocks are not (the
//     open tombstones), and the ids of the cover. The snapshot is in blocks of its own,
//     its pages. The checkpoint says which, and links to blocks of the cover alone.
//   - A version is one (key, block) pair: the value that a block gave to a
//     key. It is live once its block has been merged, until a tombstone for it
//     is. Among a key's live versions one wins, and its value is what Get
//     returns: the one of the greatest priority, then of the greatest value,
//     compared as bytes. The other live versions are losers.
//   - A priority is the number in a delta that decides so. It is also the
//     height of the block: writers make it greater than that of every block
//     below, but no greater than MaxInt64. Readers take it as it is: old peers
//     may go on to the end, and from there to 0.
//   - A record is what the store holds for a key with live versions: the
//     winner, and whether there may be losers.
//   - A mark is what the store holds for a block: complete (merged, and so is
//     all below it), pending (merged, something below it is missing), refused
//     (breaks a rule, never merged) or stranded (merged, but above a refused
//     block). A block is complete without a mark, or though its mark says that it is
//     pending, if it is in the cover of a checkpoint that is held: one whose snapshot
//     was made, taken or checked here. The block need not be here then.
//   - A head is a complete block that no other complete block of its DAG
//     replaces. Heads are announced, and new blocks are built on them. With all heads goes the
//     newest checkpoint of each DAG, for those who have nothing of it yet.
//   - A pending head is a pending block with none of its DAG above it: a head to be.
//   - The frontier is the heads and the pending heads.
//   - A commit is one atomic batch on the user's store. Whatever changes the
//     pairs or the shape of the DAG is a commit.
//   - A DAG has a name, mostly "". Named DAGs are for [MerkleCRDT.Publish].
//     They have heads of their own but share one set of pairs.
//
// # Verbs
//
// Each means one thing here, in comments and in names:
//
//   - To merge a block is to take its delta into the set, once and for all. A refused one
//     never is. A block is known once it has been merged or refused.
//   - To fold is to make a snapshot of blocks and older snapshots.
//   - To hold a checkpoint is to have its cover count as marks.
//   - To take a checkpoint is to merge its snapshot in the place of the blocks below it.
//     To leave it is to go back to these.
//   - To tell is to let those know that wait for a block that it is complete, or refused.
//   - To drop history is to remove blocks that a held checkpoint covers, and their marks.
//   - To retire a checkpoint is to let nothing rest on it any more: another one covers it,
//     or its DAG is purged. To sweep is to remove the pages and rows that none has any more.
//   - To purge a DAG is to forget its blocks and versions: each is taken out as if it had
//     never come. Nothing else is forgotten.
//   - To commit is to make a commit. What is acquired and released is a token, such as the
//     turn, or room in memory.
//
// # How data flows
//
//	crdt.go        Put, Delete, Batch              a message      broadcaster.go
//	                       |                            |         pubsub_broadcaster.go
//	                       v                            v
//	writer.go      group writes, compose           decode it      listener.go
//	               deltas, build blocks                 |
//	                       |                            v
//	                       |                       fetch blocks   fetcher.go, scheduler.go
//	                       |                            |
//	                       |                            v
//	                       |                       group them     merge.go
//	                       |                            |
//	                       +-------------+--------------+
//	                                     v
//	commit.go                  one commit at a time
//	                              |             |
//	                              v             v
//	set.go, record.go        versions won    marks, heads,        dag.go, heads.go
//	                         and lost        what is missing
//	                              |             |
//	                              +------+------+
//	                                     v
//	store.go, keys.go           one batch of rows
//	                              |             |
//	                              v             v
//	hooks.go                 PutHook,        announce the new     announce.go
//	                         DeleteHook      heads (local blocks)
//
// A local write waits in the writer's queue (writer.go). Whoever gets the turn
// takes along what else is waiting, up to Options.MaxBatchDeltaSize, looks up
// there and then which versions a Delete removes, makes one delta of it all,
// or several when one would be too large, adds the blocks to the DAG service
// and commits them. Then it passes the turn on, asks for the announcement,
// and runs the hooks. Then the calls return, or sooner if the hooks take long.
//
// A small block mostly comes inside its announcement; unless the merger is
// behind, it goes there at once, and from there to the DAG service before it is
// merged. Any other announced block that is not known is fetched, and then the
// blocks below it, newest first. What one announcement leads to is a group, and
// groups take turns: scheduler.go decides, fetcher.go asks. A block that was
// fetched is decoded when there is room for it in memory (sizeclass.go), and merged
// before what is below it (merge.go). The same commit writes a queue row for every
// link that is missing, and from these rows fetching goes on after a restart
// (resume.go). When a block is complete, the news spreads upward, in as many commits
// as it takes (merger.continueCascade), and a pending head without gaps becomes a head
// (dag.go). Only then is it announced in turn.
//
// Reads (crdt.go, query.go) go straight to the store, one row a key. They take
// no turn and never go to the network.
//
// Aside from that:
//
//   - delta.go and blockid.go say what a delta and a block's name look like,
//     which deltas are refused, and which of their elements are left out.
//   - block.go is how a block is encoded. blockstore.go turns deltas into blocks and
//     back. It and pages.go alone talk to the DAG service, and they check all that comes
//     from it.
//   - mark.go is how the mark of a block is stored, and waiters.go what waits for it.
//   - readahead.go reads the records that a commit of others' changes will touch before it has the
//     turn, and pace.go says how much of a long job goes into one commit: local writes wait for it.
//   - keybound.go saves commits from looking for the records of keys that are above all others.
//   - values.go reads losers from their blocks, when a commit uncovers them. briefreader.go
//     reads blocks that may be lost.
//   - missing.go and request.go are what the scheduler knows of a missing block, and of
//     asking for one, and fairqueue.go is how turns are taken. resume.go reads from the
//     queue rows what found no place there, or was missing at the start.
//   - session.go asks the DAG service for the blocks of a group in one session, as
//     long as that gives any.
//   - bell.go wakes goroutines. invariants.go checks each commit in tests.
//   - skips.go chooses the skip links, which let a newcomer fetch distant parts
//     of a history side by side instead of one block after the other. Readers
//     treat them as any other link.
//   - summary.go reads summaries.
//   - pages.go reads and writes the pages of snapshots, and pagepatience.go says for how
//     long they are waited for. tree.go says how versions and open tombstones are put into
//     pages, and makes them: the same for all replicas, bit for bit. treepage.go is how such
//     a page is encoded, treeread.go reads them ahead, treecheck.go checks those of peers,
//     treefold.go makes a tree from older ones.
//   - pageblock.go keeps what is a page and a block as long as it is needed as either.
//   - checkpoint.go is what is known of a checkpoint, in which states it can be, and
//     checkpointrow.go how that is stored, and rowreader.go read. snapshotname.go is what
//     its delta says. checkpoints.go is the table of all that are known, and overlay.go
//     what a commit does to tables in memory, such as this one.
//   - segment.go is how a cover stands in pages, and covers.go how one is made of
//     others, and compared. coverindex.go looks blocks up in all covers that count, and
//     buckets.go in the rows of some, which staging.go writes and removes. sorter.go sorts
//     what need not fit in memory, and mergesorted.go merges what is sorted.
//   - take.go merges a snapshot in the place of the blocks that it covers, once
//     takeprepare.go has fetched and checked it. takedead.go removes what the cover has
//     removed, and taketell.go tells those that wait for it. takepolicy.go says which
//     checkpoints are taken, and what is not fetched or merged meanwhile. early.go adds and
//     removes versions whose blocks are not merged. dagof.go finds out of which DAG a block is.
//     invain.go removes blocks that came too late to be merged.
//   - migrate.go turns stores of formats 0 and 1 into format 2, in New, and
//     downgrade.go turns them back. mixed.go merges what the old module wrote
//     into one of format 2, and rows of both formats that are left when a
//     downgrade was cut off. version.go tells which format a store has.
//   - repair.go walks all blocks below the heads for some that were never
//     merged, when the datastore is dirty. Stores of the old module may need
//     it: migrate.go marks one dirty that was not closed, mixed.go one that the
//     old module wrote into, downgrade.go one with gaps. Nothing else does, but
//     MarkDirty.
//   - traverse.go is the walk over whole DAGs behind Repair, Traverse,
//     PurgeDAG, PrintDAG and DotDAG (inspect.go, merklecrdt.go).
//   - purge.go forgets a DAG, in commits of bounded size.
//   - merklecrdt.go opens the inner layers: custom deltas, named DAGs. views.go
//     shows the set and the heads to those who use these.
//
// # Checkpoints
//
// A checkpoint comes to the same as the blocks in its cover, so it may come early, late,
// twice or never, and nothing else changes its meaning. That rests on a few rules:
//
//   - Its cover is every block that can be reached from its links through blocks of
//     its own DAG. It links to exactly those heads that were folded: whatever else it
//     linked to would be taken for covered.
//   - Its snapshot follows from the deltas in the cover alone, bit for bit, whoever makes
//     it. It is folded from blocks, or from older snapshots and the blocks above them,
//     and never read from the store, which knows of other DAGs too.
//   - It is held where its snapshot was made, checked or taken, and all pages are here.
//     From then on, and not before, its cover counts as marks.
//   - To old peers it is an empty delta with links.
//
// How one is made, and what becomes of it at others:
//
//	makecheckpoint.go   Checkpoint, or           a peer's block     checkpoint.go
//	autocheckpoint.go   CheckpointEvery               |
//	        |                                         v
//	        v                                    merged: seen
//	tidy.go         remove losers                |           |
//	        |                              complete        pending, far above
//	        v                                    |         the heads, or below
//	foldwalk.go     read the blocks              v         it is something that
//	sorter.go       since the last one     verify.go       nobody has
//	        |                              fold it too     |
//	        v                              |      |        v
//	fold.go         join them with the   equal  other    takepolicy.go, takeprepare.go
//	treefold.go     pages of that one,     |      |      fetch and check all pages
//	covers.go       and write what is      |      v        |
//	        |       new                    |     void      v
//	        v                              |             take.go, takedead.go, taketell.go
//	publish a block that names it          |             merge them
//	        |                              v               |
//	        +--------------------------> held <------------+
//	                                       |
//	                                       v
//	compact.go, keeplosers.go,      drop the blocks below it, and
//	keephistory.go, thinout.go,     retire the checkpoints that
//	retire.go                       it covers
//
// jobs.go has one of these jobs done at a time, and chores.go some of each kind in turn:
// dropping waits for a single check and a single take at most. checkpointer.go says which
// there are, each with a type of its own. Taking and dropping go on after a restart where
// they were, by the row of the checkpoint and others below /w. Commits of others are made
// in between. While a checkpoint is being taken, no block of its cover is fetched or merged.
//
// A fold needs blocks that are here. Of a checkpoint beside one below which all has been
// dropped none can be made: that one stays undecided, until a later one covers both.
//
// What rests on a snapshot that was taken is as true as that is. If a fold on it contradicts
// another checkpoint, one of two is wrong, and a replica cannot tell which: the blocks that would
// say so are not here, and everybody can make contradictions. So it stands by what it took. The
// other one is void here, the log names both, and little else comes of it: no pair changes,
// and checkpoints are made, held and dropped below as ever. Only those that are made on their own
// come later, until one covers the contradiction: if others make some meanwhile, newcomers mostly
// take these. Where what was taken is wrong, those of others are void here, and those made
// here are void to others, until what was false has been overwritten or deleted, or the DAG has
// been purged here and has come again.
//
// purgesnapshot.go and purgeexplain.go are how PurgeDAG forgets what snapshots have
// brought.
//
// # What lies on disk
//
// Rows of formats 2 and 3, under the namespace given to New. In format 3 there may be
// blocks of which only a cover says that they have been merged: a checkpoint was taken,
// or marks have been removed. There is no way back to the old module from it.
//
// <id> is the upper-case base32 multihash of a block, unpadded, and <root> that of the
// first page of a segment; uvarint is that of encoding/binary. keys.go makes the names,
// and [InternalNamespaces] can change the first part of those above the line.
//
//	/s/r<key>               the record of a key: see below
//	/s/l/<escaped key>/<id> a loser of the key: see below
//	/s/t<key>/<id>          a tombstone that came before its block; empty
//	/s/c/<id>/<escaped key> a claim about a block: the digest of the summary that
//	                        made it, then the key
//	/s/c/<id>               a block that is not here and that a summary sums up:
//	                        the name of the summary's DAG
//	/h/<id>                 a head of the unnamed DAG: uvarint height
//	/a/<dag name>/<id>      a head of a named DAG: uvarint height
//	/b/<id>                 the mark of a block: see below
//	/d                      there while the datastore is dirty
//	/bs                     there while it is open, and after a crash
//	/crdt_version           a byte: the format plus 1, and 128, which the old
//	                        module fails on; a second one while a store of both
//	                        formats is brought to one
//	----
//	/q/<id>                 a missing block that a merged one links to, one
//	                        that is merged in parts, or one whose parents have
//	                        still to be told that it is settled: uvarint, at
//	                        most its height; then a byte 0 if it is linked by
//	                        its CID of version 0
//	/p/w/<child id>         the digests of up to 8 blocks that are pending because
//	                        of the child; then a byte 0 if there may be more
//	/p/<child id>/<parent>  one of those that are more; empty
//	/p/<id>                 the links of a pending block that has more than 8
//	/r/<id>                 a pending head: uvarint height, then the DAG's name
//	/w                      the redo row: a commit that has begun
//	/w/c/<id>               what is known of a checkpoint: see checkpointrow.go
//	/w/s/<root>             there once all rows of a segment are; empty
//	/w/s/<root>/<bucket>    those ids of a segment that begin with the bits of the
//	                        bucket, which is in hexadecimal: the first halves of their
//	                        digests, sorted
//	/w/s/<root>/<bucket>/<n> more of them, if they are more than 4,096
//	/w/s                    the spare segments: they may have rows, and no checkpoint
//	                        uses them yet, or any more: for each the digest of its
//	                        root, and uvarint how many ids it has
//	/w/dropping             while history is being dropped: the digests of blocks that
//	                        are to be removed from the DAG service
//	/w/d/<n>                while retired checkpoints are being swept: likewise of their pages
//	/w/purged               while a DAG is being purged: the digests of blocks
//	                        that are to be removed from the DAG service
//
// A key starts with a slash: the record of /a/b is /s/r/a/b. In the names of
// losers it is escaped to a single part, "%" as %25 and "/" as %2F, so that the
// losers of a key are never found among those of the keys below it.
//
// A record (record.go) has a header of fixed size, so that GetSize needs the
// row's size alone:
//
//	byte 0       flags: 1 always set, 2 there may be losers, 4 migrated from an
//	             older format with several live versions and not resolved yet:
//	             the winner is among the losers too, and its id is not known;
//	             8 the winner's block may not be here, or not be merged, as that of a
//	             claim, or if it came with a checkpoint: if the
//	             winner loses, its value is kept; 16 all losers are known to be
//	             of a priority below MaxInt64
//	bytes 1-8    the winner's priority, big endian
//	bytes 9-40   the winner's block: the bare SHA2-256 digest
//	bytes 41-    the value
//
// A loser is empty (migrated, nothing known), or has one byte, 1 if a value
// follows and else 0, and 8 bytes of priority, big endian. As a rule its value
// stands in its block alone, and is read from there when a tombstone uncovers
// it; that of a claim, and of any loser whose block may not be here, or is covered and
// may be dropped, is stored.
//
// A mark is empty for a complete block, as in the older formats. Else its first
// byte is 2 for pending, 3 for refused or 4 for stranded, plus 128 for a pending
// block that must not become a head: repair found it below a complete one, or a
// summary sums it up. A pending mark goes
// on with uvarints, the number of links that are not complete, the height and
// the length of the DAG's name, then that name, and the digests of all links unless
// these stand in a row of their own: the mark is written again for each link that
// becomes complete. Of a block that is about to be stranded these are the links below
// which nothing has been uncovered yet.
//
// The redo row holds all rows of a commit, in the shape of a delta. It is
// written first when the store has no atomic batches, or when the commit may
// be too large for one: beyond 64 Ki rows or 8 MiB. New applies a redo row that
// it finds, and so does the first commit after a failed one.
//
// # Locks
//
// Once New has returned, only the holder of the turn (committer.turn, a channel
// with one token) changes the store, but for the rows /d and /bs. The fields of
// the committer below the turn belong to its holder, and the methods that end in
// InTurn are for it alone. While it is held, nothing is fetched: a commit that
// needs the value of a loser gives up with missingValues, reads the blocks, and
// begins anew (committer.do, merger.mergeLater). A local write does hold it while
// its block is added to the DAG service.
//
// Repairs and purges hold repairer.alone from the beginning to the end, and take
// the turn for each of their commits. So do jobs on checkpoints with checkpointJobs.alone.
// A purge takes that after repairer.alone, once it has ended the job of its DAG.
//
// All mutexes but one are held for moments, and guard the fields below them:
//
//	Datastore.gate      whether calls may begin
//	writer.mu           local writes that wait
//	batch.mu            what is in one batch
//	fetcher.mu          the scheduler with all that it knows, the budgets of the
//	                    size classes, sessions
//	frontier.mu         the heads, the pending heads and the checkpoints after the last
//	                    commit
//	announcer.mu        what is to be announced
//	hookQueue.mu        what is to be told to the hooks
//	repairer.mu         the row /d
//	checkpointJobs.mu   the job that is going on
//	chores.mu           whether the checkpointer's goroutine is there, and when it looks again
//	valueReads.mu       the reads of values that are going on
//	blockStore.reading  held while a block is decoded for its values: the one that is not
//
// The turn comes first: fetcher.mu, frontier.mu, announcer.mu, hookQueue.mu and chores.mu
// are taken by its holder. frontier.mu is taken under announcer.mu, and no other under any.
//
// # Invariants
//
// With their exceptions. [MerkleCRDT.Set].Merge and [MerkleCRDT.Heads].Add and
// Replace can break the first and the third: they are for repairs by hand.
//
//  1. Replicas that merged the same blocks show the same pairs, whatever the
//     order, the grouping and the restarts.
//  2. A commit is all or nothing. A block is one commit, but for one that came from a
//     peer and uncovers more than 1 MiB of older values: of such a block, tombstones
//     show before the rest, which follows, also after a restart. If summaries claim
//     very much about a block, some of these claims go before it comes. A replica that is
//     killed at any write reopens to a state that it had, and converges.
//  3. Every merged block is reachable from the heads and pending heads, and the history
//     of every head is complete, down to the summaries and the covers in it. Not so for
//     what is here of a cover; for stranded blocks, which never become heads; above a
//     purged block of another DAG; and in a store of the old module, whose heads are
//     taken to be complete until a repair has filled the gaps.
//  4. Put and Delete are linearizable on one replica. A read sees every write
//     that returned before it.
//  5. A Put reads the record of its key and no other version, however often the key was
//     written before and whatever keys there are below it, but for a Put that must
//     tombstone losers as well as the winner. A Delete, and a Put where
//     Options.SupersedingPuts is set, reads the losers of its key too, if there are
//     any, and costs one tombstone for each live version. Tombstones too many for one
//     block go out in several blocks of one commit, the losers' in the last ones:
//     readers who come from the top never see an old value come back.
//  6. Hooks run once per change, in commit order, after the commit, with no lock held:
//     they may call the datastore, except Close, Repair, PurgeDAG, Checkpoint, Compact
//     and StateRoot. If a removal uncovers another version, DeleteHook is called and then
//     PutHook; if the same commit adds one that wins, PutHook alone. Writes that wait
//     for hooks cannot deadlock them: one that a hook makes itself does not wait, and
//     any other for a second at most while no hook returns.
//  7. Close runs the hooks that wait and sends what is to be announced, within
//     10 seconds. Calling it twice is harmless. Afterwards calls fail with [ErrClosed].
//
// A block that is unavailable holds up only the pending head above it. Requests that
// are slow give up their slot, and failed ones are tried again with a growing
// pause of at most Options.RebroadcastInterval, sooner when an unknown block is
// announced or a peer joins. An announced block that fails 8 times before it
// was ever seen is given up until it is announced again.
//
// # Limits
//
// What peers can make a replica hold in memory, whatever they send. Each limit
// has a name, in the file that is given.
//
//   - Messages of more than 4 MiB are ignored. Only the first 2,048 heads of a message
//     are looked at (listener.go).
//   - At most 64 Ki missing blocks are known, some 40 MiB, 4,096 of which were
//     announced and not seen yet. The rest stays in the queue rows (scheduler.go).
//   - Up to 32 blocks for each of Options.NumWorkers, 160 by default, are asked for at
//     once, and up to 512 more that are slow to come (scheduler.go). Each takes a
//     goroutine. Apart from these, and those of its callers and of the DAG service, a
//     replica has up to 100.
//   - Decoded blocks that are not merged yet take up to 16 MiB if they are small, of
//     16 KiB at most, and up to 96 MiB otherwise. What finds no room is fetched again
//     later (sizeclass.go).
//   - One commit merges blocks that take up to 8 MiB, or one that takes more (merge.go). It
//     takes fewer where that would hold up local writes for more than some 5 ms.
//     A block of 2 MiB with 200,000 keys, the costliest there is, takes some
//     250 MiB and a second. Small blocks wait for one such at a time.
//   - One commit tells up to 8,192 parents of what is settled below them, and looks
//     at as many links of theirs, or at all of one block (dag.go). Up to 64 Ki blocks
//     whose parents have still to be told are known. The rest stays in the queue rows
//     (commit.go).
//   - A page has up to 1 MiB, and its entries take up to 512 KiB. Who reads a tree of
//     pages holds up to 136 MiB of it, and some 10 MiB as a rule (treeread.go).
//   - What a fold reads is sorted in up to 64 MiB, and then in temporary files
//     (sorter.go). The ids of the blocks since the last checkpoint are kept in memory
//     meanwhile, some 100 bytes each (foldwalk.go). To check a checkpoint, up to 64 Ki
//     blocks are read that another one covers (verify.go). To remove losers, and in a
//     take, it is kept in mind of up to 64 Ki blocks of which DAG they are (dagof.go). A
//     drop reads the values of up to 16 Ki losers at a time, and keeps in mind up to 64 Ki
//     whose blocks are lost, or 16 MiB of their keys (keeplosers.go).
//   - 256 checkpoints are known of which nothing is made, with up to 1,024 links each
//     (checkpoints.go). Of those that are held stay, in each DAG, those that no other one
//     covers, those that only such a one covers, and while history is kept some 9 older
//     ones (thinout.go).
//   - After a check in vain, as of a false checkpoint, none begins for three times as long
//     as it took, up to half an hour. So it is a quarter of the time that liars can have a
//     replica fold, unless one fold takes more than ten minutes, and what it makes and drops
//     itself does not wait (verify.go). Pages are waited for as long as some come within 30
//     seconds, and no longer than that if there is anything else to do for the checkpointer
//     (pagepatience.go). A checkpoint that could not be taken is put off for
//     Options.RebroadcastInterval, and twice as long each time up to 64 times (takepolicy.go).
//   - The ids in small segments of covers are kept in memory, up to 64 Ki in all, 1 MiB.
//     To look for a block that is not known reads a row of each larger one, mostly of
//     some 4 KiB (coverindex.go). Whoever reads a cover reads up to 8 pages of 256 KiB of
//     each segment ahead, 25 MiB (segment.go).
//   - 4,096 blocks are kept in mind as targets of skip links, of all DAGs (skips.go).
//   - 64 blocks hold values of older blocks, or wait for them: each up to 1 MiB of
//     values, the best of each key alone, and those that one more block holds. A
//     block that uncovers more is merged in parts. One block is decoded for its
//     values at a time (merge.go, values.go). What a block uncovers that Repair merges
//     has no limit.
//   - Up to 4,096 changes, or 32 MiB of them, wait to be told to the hooks. Beyond that
//     merges wait for the hooks, and so does every write once it is committed; the
//     last one of each goroutine comes on top (hooks.go).
//
// With these limits a replica needs some 400 MiB at most while it is under attack, and
// next to nothing when it is idle. Two things come on top. The frontier has no limit:
// each head and each pending head takes some 0.2 KiB, and every commit looks through
// them, 0.1 ms for each thousand. Heads go when something is written on them; pending
// heads stay. Repair, Traverse, PurgeDAG and folds decode up to 64 blocks at once, and
// PurgeDAG holds those of one commit besides, and all values of other DAGs that it
// uncovers.
//
// # Caveats
//
//   - A batch of the user's store is taken to be atomic, unless it is the basic
//     batch of go-datastore. That one is also found in a wrapper that names
//     its children, as go-datastore's own do. Badger cuts a batch beyond 15 % of
//     its MemTableSize: that must be 64 MiB, the default, or more.
//   - A reader beside a commit sees half of it if the store's batch lets it,
//     or if the commit needed a redo row.
//   - Blocks are made durable by the DAG service, not by Sync. A head whose
//     block is lost cannot be served to anyone.
//   - Nothing is collected but what checkpoints cover, and that only if it is asked
//     for. Else blocks, also those of writes that failed, their marks and the losers of
//     overwritten keys stay. The pages of a checkpoint are not below the heads: a
//     garbage collector of the DAG service must leave them alone. A Delete removes a
//     key's losers, and so does a Put with Options.SupersedingPuts.
//   - What was fetched below a checkpoint before this came to be taken, and not merged, is
//     removed once it is held if Options.KeepHistory is set, mostly, and not after a restart.
//     Otherwise it stays, also when Compact is called.
//   - What is dropped or purged is removed also from others who keep the same block in the same
//     DAG service.
//   - What has come of the pages of a checkpoint that was never held, as a fold or a take of
//     it was given up or it is void, stays. A value of more than 64 KiB is a page of its own,
//     a raw block: it goes with the last checkpoint that has it, also if something else
//     keeps the same bytes in the same DAG service.
//   - A refusal is for good: the mark outlives a restart and a change of
//     options. So replicas must agree on Options.MaxBlockSize, and on
//     MerkleCRDTOptions.DeltaFactory, before the first delta that needs it.
//   - Whoever can announce can write, and can claim any priority.
//     A Put here still wins over such a version: it tombstones what it cannot
//     outrank.
//   - Traverse, PurgeDAG, PrintDAG and DotDAG pass over blocks of which a cover is all
//     that is left here, and do not say so. Repair does not go below a cover.
//   - Repair, Traverse, PurgeDAG, PrintDAG and DotDAG keep the CIDs of all
//     blocks they visit in memory, and PurgeDAG their links. It reads all other
//     DAGs as well if versions of the purged one had been removed.
//   - A purged DAG comes back when a peer that has it writes to it. Its stranded
//     blocks are not below its heads, and are not purged. A replica that has
//     purged a DAG shows other pairs than one that has not.
package crdt
